"""The assistant on real servers; the language model is a server of the tests' own that speaks its protocol.

No model can be had here: what this proves is how the project deals with such a server, not what a model says.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import pytest

from tests.language_model import LanguageModel, run_language_model
from tests.template import (
    BACKGROUND_THREADS,
    Answers,
    MakeProject,
    Project,
    Server,
    also_in_test_all,
    edit,
    first_match,
    on_each_server,
)

LONG = "word " * 2000


class Page:
    """An open page of a conversation: its event stream, read in a task."""

    def __init__(self, client: httpx.AsyncClient, path: str) -> None:
        self.client, self.path = client, path
        self.answers: dict[str, str] = {}  # HTML by the answer's id
        self.finished, self.texts = "", list[str]()  # of the last one
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        """Read the stream, and open another one when it ends, as browsers do."""
        while True:
            with suppress(httpx.TransportError):
                await self.read_stream()
            await asyncio.sleep(0.2)

    async def read_stream(self) -> None:
        params = {"after": next(reversed(self.answers), "0")}
        async with self.client.stream("GET", f"{self.path}events/", params=params, timeout=60) as response:
            assert response.headers["content-type"] == "text/event-stream"
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "data" and name in event:
                    value = f"{event[name]}\n{value}"
                if line:
                    event[name] = value
                else:
                    self.take(event)
                    event = {}

    def take(self, event: dict[str, str]) -> None:
        if event.get("event") == "answer":
            self.answers[event["id"]] = event["data"]
            parts = re.findall(r'<div class="(?:finished|last)">(.*?)</div>', event["data"], re.DOTALL)
            self.finished, last = parts
            self.texts.append((self.finished + last).strip())
        elif event.get("event") == "text":
            parts = json.loads(event["data"])
            self.finished += parts["finished"]
            self.texts.append((self.finished + parts["last"]).strip())

    @property
    def text(self) -> str:
        return self.texts[-1] if self.texts else ""

    @property
    def last(self) -> str:
        return next(reversed(self.answers.values()), "")

    async def wait_for_end(self, number: int) -> None:
        await wait_until(lambda: len(self.answers) == number and 'data-state="running"' not in self.last)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.result()


async def wait_until(condition: Callable[[], object], seconds: float = 10) -> float:
    """Wait, and return how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def sign_in(server: Server, username: str = "ada") -> httpx.AsyncClient:
    """A client behind the proxy, with the cookies of this user."""
    with server.client(headers={"Origin": "https://example.com"}) as client:
        client.get("/accounts/login/")
        form = {"username": username, "password": "analytical-engine"}
        form["csrfmiddlewaretoken"] = client.cookies["csrftoken"]
        assert client.post("/accounts/login/", data=form).status_code == 302
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = {"Host": "example.com", "X-Forwarded-Proto": "https", "Origin": "https://example.com"}
        headers |= {"Cookie": cookies, "X-CSRFToken": client.cookies["csrftoken"]}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20)


async def ask(client: httpx.AsyncClient, question: str, path: str = "/") -> str:
    """Ask a question; return the path of its conversation."""
    response = await client.post(path, data={"question": question})
    assert response.status_code == 302, response.text
    return response.headers["location"].partition("#")[0]


@asynccontextmanager
async def open_page(client: httpx.AsyncClient, path: str) -> AsyncIterator[Page]:
    assert (await client.get(path)).status_code == 200
    page = Page(client, path)
    try:
        yield page
    finally:
        await page.close()


@contextmanager
def run_project(project: Project, model: LanguageModel) -> Iterator[Server]:
    with project.run_server(OPENAI_BASE_URL=model.url, OPENAI_MODEL="test", ASGI_THREADS="10") as server:
        yield server


@on_each_server("assistant")
def test_assistant(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    with run_language_model() as model, run_project(project, model) as server:
        asyncio.run(use_assistant(server, model))
        assert "Traceback" not in server.output


async def use_assistant(server: Server, model: LanguageModel) -> None:
    async with sign_in(server) as client:
        path = await ask(client, "hello")
        async with open_page(client, path) as page:
            await wait_until(lambda: 'data-state="complete"' in page.last)
            assert "<strong>world</strong>" in page.last
            assert page.texts[-1] == "<p>Hello <strong>world</strong>.</p>"
        assert model.get("hello").body["model"] == "test"

        # Stop, and retry; closing the page then stops it, too.
        model.answer = LONG
        await ask(client, "stop", path)
        async with open_page(client, path) as page:
            await wait_until(lambda: page.text.count("word") > 5)
            assert [each["role"] for each in model.get("stop").body["messages"]] == [
                "system",
                "user",
                "assistant",
                "user",
            ]
            assert (await client.post(path, data={"action": "stop"})).status_code == 302
            assert await wait_until(lambda: model.get("stop").disconnected_at) < 1
            await wait_until(lambda: "You stopped the answer." in page.last)
            assert page.last.count("word") > 5
            assert (await client.post(path, data={"action": "retry"})).status_code == 302
            await wait_until(lambda: 'data-state="running"' in page.last and page.text.count("word") > 5)
            assert model.get("stop").disconnected_at is None

            # A reload, as browsers do it, and a second tab.
            async with open_page(client, path) as reloaded, open_page(client, path) as tab:
                await page.close()
                await asyncio.sleep(1.5)
                assert model.get("stop").disconnected_at is None
                words = reloaded.text.count("word")
                await wait_until(lambda: reloaded.text.count("word") > words)
                assert reloaded.text.count("word") - tab.text.count("word") in range(-10, 10)
            assert await wait_until(lambda: model.get("stop").disconnected_at) < 1
        async with open_page(client, path) as page:
            await wait_until(lambda: "its page was closed" in page.last)
            assert page.last.count("word") > words


FAILURES = {
    "400": "rejected the question",
    "429": "is overloaded",
    "500": "reported an error",
    "hang": "took too long",
    "stall": "took too long",
    "half": "stopped before the answer was complete",
    "cut": "connection to the language model failed",
    "error": "request to the language model failed",
    "garbage": "request to the language model failed",
    "length": "reached its limit of 2,000 tokens",
    "filter": "content filter stopped the answer",
    "refuse": "declined to answer",
}


def test_failures_and_limits(make_production_project: MakeProject) -> None:
    """Each failure is a sentence on the page, and what came is kept; limits refuse, and lose no question."""
    project = make_production_project(starter="assistant")
    edit(project.path / "wiki" / "lifespan.py", "Timeout(60, connect=5)", "Timeout(1, connect=5)")
    edit(
        project.path / "assistant" / "models.py",
        "MAX_RUNNING_PER_USER, MAX_RUNNING_PER_SITE = 3, 1000",
        "MAX_RUNNING_PER_USER, MAX_RUNNING_PER_SITE = 3, 4",
    )
    create = "User.objects.create_user('grace', '', 'analytical-engine')"
    project.manage("shell", "--command", create)
    with run_language_model() as model, run_project(project, model) as server:
        asyncio.run(meet_failures(server, model))
        asyncio.run(reach_limits(server, model))
        assert "Traceback" not in server.output


async def meet_failures(server: Server, model: LanguageModel) -> None:
    async with sign_in(server) as client:
        path = ""
        for number, (mode, sentence) in enumerate(FAILURES.items(), start=1):
            path = await ask(client, mode, path or "/")
            async with open_page(client, path) as page:
                await page.wait_for_end(number)
                assert sentence in page.last, mode
                assert ("Hello" in page.last) == (mode not in {"400", "429", "500", "hang"})
                assert ("Try again" in page.last) == (mode != "length")
        # A question goes to the model without what has failed before there was any text.
        questions = [message["content"] for message in model.requests[-1].body["messages"]]
        assert "stall" in questions
        assert "hang" not in questions


async def reach_limits(server: Server, model: LanguageModel) -> None:
    model.answer = LONG
    async with sign_in(server) as ada, sign_in(server, "grace") as grace:
        paths = [await ask(ada, f"hello {number}") for number in range(3)]
        refusals = [
            (ada, "/", "4th", 429, "3 running answers"),
            (ada, paths[0], "again", 429, "still being answered"),
            (ada, paths[0], "", 400, "This field is required"),
            (ada, paths[0], "x" * 8001, 400, "at most 8000 characters"),
            (grace, paths[0], "mine", 404, "Page not found"),
        ]
        for client, path, question, status, sentence in refusals:
            response = await client.post(path, data={"question": question})
            assert (response.status_code, sentence in response.text) == (status, True), response.text
            assert question in response.text or status == 404
        for path in (paths[0], f"{paths[0]}events/"):
            assert (await grace.get(path)).status_code == 404
        assert "hello 1" not in (await grace.get("/")).text
        assert "hello 1" in (await ada.get("/")).text
        await ask(grace, "one")
        response = await grace.post("/", data={"question": "two"})
        assert (response.status_code, "The assistant is busy" in response.text) == (429, True)
        # All of them end, as no page was opened.
        await wait_until(lambda: all(model.get(each).disconnected_at for each in ("hello 0", "hello 2", "one")))


@pytest.mark.parametrize("database", ["postgresql", *also_in_test_all("sqlite")])
def test_two_processes(database: str, make_production_project: MakeProject) -> None:
    """A page at another process than that of the answer follows and stops it; a killed process leaves none running."""
    project = make_production_project(starter="assistant", database=database)
    edit(project.path / "assistant" / "models.py", "timedelta(seconds=30)", "timedelta(seconds=3)")
    edit(project.path / "assistant" / "running.py", "HEARTBEAT_SECONDS = 5", "HEARTBEAT_SECONDS = 1")
    edit(project.path / "assistant" / "events.py", "MAX_STREAM_SECONDS = 30", "MAX_STREAM_SECONDS = 2")
    # Over a network, or on a busy machine, it takes longer than here until a process receives commands.
    subscribe = 'async with subscribe(f"answer'
    edit(project.path / "assistant" / "running.py", subscribe, f"await asyncio.sleep(0.5)\n        {subscribe}")
    # Messages do, too; SQLite's, half a second.
    seconds = 1 if database == "postgresql" else 1.5
    with run_language_model(answer=LONG) as model:
        with run_project(project, model) as other, run_project(project, model) as server:
            asyncio.run(use_other_process(server, other, model, seconds))
            assert "Traceback" not in server.output + other.output
        with run_project(project, model) as server:
            asyncio.run(see_result(server, "The server was stopped during"))


async def use_other_process(server: Server, other: Server, model: LanguageModel, seconds: float) -> None:
    async with sign_in(server) as client, sign_in(other) as other_client:
        path = await ask(client, "closed")
        async with open_page(other_client, path) as page:
            await wait_until(lambda: page.text.count("word") > 5)
            await asyncio.sleep(5)  # the stream has ended twice, and another one has begun
            assert model.get("closed").disconnected_at is None
        assert await wait_until(lambda: model.get("closed").disconnected_at) < seconds

        async with open_page(other_client, path) as page:
            await wait_until(lambda: "its page was closed" in page.last)
            await ask(client, "at once", path)
            await other_client.post(path, data={"action": "stop"})
            await wait_until(lambda: "at once" in page.last and "You stopped the answer." in page.last)

            await ask(client, "halt", path)
            await wait_until(lambda: "halt" in page.last and page.text.count("word") > 5)
            await other_client.post(path, data={"action": "stop"})
            assert await wait_until(lambda: model.get("halt").disconnected_at) < seconds
            await wait_until(lambda: "You stopped the answer." in page.last)

            # The process that has the answer hangs, and is killed.
            await ask(client, "killed", path)
            await wait_until(lambda: "killed" in page.last and page.text.count("word") > 5)
            os.kill(get_pid(server), signal.SIGKILL)
            await wait_until(lambda: "was interrupted while answering" in page.last)
            assert page.last.count("word") > 5
            await other_client.post(path, data={"action": "retry"})
            await wait_until(lambda: page.text.count("word") > 5)

            stopping = asyncio.create_task(asyncio.to_thread(other.stop))
            await wait_until(lambda: model.get("killed").disconnected_at, seconds=15)
            await stopping


def get_pid(server: Server) -> int:
    return int(first_match(r"web\.1 started \(pid=(\d+)\)", server.output))


async def see_result(server: Server, note: str) -> None:
    async with sign_in(server) as client:
        assert note in (await client.get("/conversations/1/")).text


@pytest.mark.parametrize("count", [100, *also_in_test_all(1000)])
@pytest.mark.skipif(sys.platform != "linux", reason="the threads are counted in /proc")
def test_many_streams(count: int, make_production_project: MakeProject) -> None:
    """On one process with ten threads, SQLite, and a page for each answer; other pages respond meanwhile."""
    project = make_production_project(starter="assistant")
    edit(project.path / "assistant" / "events.py", "MAX_STREAM_SECONDS = 30", "MAX_STREAM_SECONDS = 600")
    models = project.path / "assistant" / "models.py"
    edit(
        models,
        "MAX_RUNNING_PER_USER, MAX_RUNNING_PER_SITE = 3, 1000",
        "MAX_RUNNING_PER_USER, MAX_RUNNING_PER_SITE = 1000, 1000",
    )
    edit(
        models,
        "MAX_TOKENS_PER_USER, MAX_TOKENS_PER_SITE = 200_000,",
        "MAX_TOKENS_PER_USER, MAX_TOKENS_PER_SITE = 10_000_000,",
    )
    with run_language_model(answer=LONG, interval=2) as model, run_project(project, model) as server:
        asyncio.run(open_many(server, model, count))
        assert "Traceback" not in server.output
        assert "threads (ASGI_THREADS) are in use" not in server.output


async def open_many(server: Server, model: LanguageModel, count: int) -> None:
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    at_once = asyncio.Semaphore(8)
    async with sign_in(server) as client:
        cookies = client.headers["Cookie"]

        async def open_one(number: int) -> None:
            async with at_once:
                path = await ask(client, f"question {number}")
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**20)
                head = f"GET {path}events/ HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\nCookie: {cookies}\r\n\r\n"
                writer.write(head.encode())
                await reader.readuntil(b"event: answer")
                connections.append((reader, writer))

        await asyncio.gather(*[open_one(number) for number in range(count)])
        assert len([request for request in model.requests if request.disconnected_at is None]) == count

        # New text reaches all of them, and pages respond.
        waiting = asyncio.gather(*[reader.readuntil(b"event: text") for reader, _ in connections])
        while not waiting.done():
            assert (await client.get("/")).status_code == 200
            await asyncio.sleep(0.1)
        await waiting
        # Those of requests, background threads, the main one, and one that may be ending.
        assert len(os.listdir(f"/proc/{get_pid(server)}/task")) <= 10 + BACKGROUND_THREADS + 2
        for _, writer in connections:
            writer.close()
        await wait_until(lambda: all(request.disconnected_at for request in model.requests), seconds=30)
