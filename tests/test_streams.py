"""Server-sent events: what is sent, and when a stream ends."""

import json
import re

from tests.template import MakeProject

WRITE_EVENTS = r"""
import json
from datetime import date
from decimal import Decimal
from django.test import RequestFactory
from wiki.serving.streams import ServerSentEvent, get_last_event_id

def refusal(**fields):
    try:
        ServerSentEvent("data", **fields)
    except ValueError as error:
        return str(error)

events = [
    ServerSentEvent("one"),
    ServerSentEvent({"due": date(2026, 11, 28), "price": Decimal("1.50"), "text": "a\nb"}, id=7, event="sale"),
    ServerSentEvent("a\nb\r\nc\rd\n\n id: 5\u2028e\x85f\x0bg", id="é"),
    ServerSentEvent(""),
    ServerSentEvent(id=8),
    ServerSentEvent(retry=2000),
    ServerSentEvent(0),
]
headers = ["12", "", "x", "-1", "1.0", "²", "9" * 18, "9" * 19, "1\n"]
print(json.dumps({
    "stream": "".join(event.encode().decode() for event in events),
    "refusals": [
        refusal(**{name: f"a{character}b"}) for name in ("id", "event", "retry") for character in "\r\n\0"
    ],
    "ids": [get_last_event_id(RequestFactory().get("/", headers={"Last-Event-ID": header})) for header in headers],
    "after": [
        get_last_event_id(RequestFactory().get("/?after=3", headers={"Last-Event-ID": header})) for header in ("", "4")
    ],
}))
"""


def parse(stream: str) -> list[tuple[str, str, str]]:
    """The (type, data, last id) of each event, as a browser dispatches it: the algorithm of the HTML standard."""
    events, last_id, kind, data = [], "", "", ""
    for line in re.split("\r\n|\n|\r", stream):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                events.append((kind or "message", data.removesuffix("\n"), last_id))
            kind = data = ""
        elif field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


def test_events(make_project: MakeProject) -> None:
    """Browsers receive what was meant, whatever characters are in it."""
    written = json.loads(make_project().manage("shell", "--no-imports", "--command", WRITE_EVENTS).stdout)
    assert parse(written["stream"]) == [
        ("message", "one", ""),
        ("sale", '{"due": "2026-11-28", "price": "1.50", "text": "a\\nb"}', "7"),
        ("message", "a\nb\nc\nd\n\n id: 5\u2028e\x85f\x0bg", "é"),
        ("message", "", "é"),
        ("message", "0", "8"),
    ]
    assert "\nretry: 2000\n" in written["stream"]
    assert [refusal.split(", not ")[0] for refusal in written["refusals"]] == [
        f"The {name} of an event must be one line without NUL" for name in ("id", "event", "retry") for _ in range(3)
    ]
    assert written["ids"] == [12, None, None, None, None, None, int("9" * 18), None, None]
    assert written["after"] == [3, 4]


ITERATE = r"""
import asyncio
from contextlib import aclosing
from contextvars import ContextVar
from wiki.serving.streams import EventStreamResponse, ServerSentEvent

variable = ContextVar("variable", default="unset")

async def read(events, parts=None, **options):
    "Print the first parts, or all, and the error."
    response, seen = EventStreamResponse(events, **options), []
    try:
        async with aclosing(response), aclosing(aiter(response)) as content:
            async for part in content:
                seen.append(part.decode())
                if len(seen) == parts:
                    break
    except Exception as error:
        seen.append(repr(error))
    print(seen)

async def slow(seconds):
    try:
        await asyncio.sleep(seconds)
        yield ServerSentEvent("slow")
        print("went on")
    except asyncio.CancelledError:
        print("cancelled")
        raise
    finally:
        await asyncio.sleep(0)
        print("closed")

async def one_task():
    variable.set("set")
    async with asyncio.timeout(0.5):
        yield ServerSentEvent("before")
        yield ServerSentEvent(variable.get())
        await asyncio.sleep(60)

async def not_an_event():
    yield 1

class Iterator:
    def __aiter__(self):
        return self
    async def __anext__(self):
        raise StopAsyncIteration

async def main():
    await read(slow(1), keep_alive_seconds=0.4)
    await read(slow(60), parts=2, keep_alive_seconds=0.1)
    await read(slow(0), parts=2)
    await read(one_task())
    await read(not_an_event())
    await read(Iterator())
    try:
        EventStreamResponse(iter([]))
    except TypeError as error:
        print("refused")

asyncio.run(main(), debug=True)
"""


def test_iteration(make_project: MakeProject) -> None:
    """The keep-alive comment cancels nothing, and the iterator is closed at each kind of end."""
    ran = make_project().manage("shell", "--no-imports", "--command", ITERATE)
    alive = ": keep-alive\\n\\n"
    assert ran.stdout.splitlines() == [
        "went on",
        "closed",
        f"['{alive}', '{alive}', '{alive}', 'data: slow\\n\\n']",
        "cancelled",
        "closed",
        f"['{alive}', '{alive}']",
        "closed",
        f"['{alive}', 'data: slow\\n\\n']",
        f"['{alive}', 'data: before\\n\\n', 'data: set\\n\\n', 'TimeoutError()']",
        f"['{alive}', \"TypeError('An event must be a ServerSentEvent, not 1.')\"]",
        f"['{alive}']",
        "refused",
    ]
    assert ran.stderr == ""
