"""Server-sent events: a response that streams them, and the client's last event id."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import cast

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, StreamingHttpResponse

KEEP_ALIVE_SECONDS = 15  # proxies close idle connections, many after 30 seconds
KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


@dataclass(frozen=True)
class ServerSentEvent:
    """A server-sent event. Fields that are None are left out.

    `data` is sent as is if it is a `str`, otherwise as JSON.
    """

    data: object = None
    id: int | str | None = None  # when a browser reconnects, it sends the last id that it received
    event: str | None = None  # the type for `addEventListener`, by default "message"
    retry: int | None = None  # how many milliseconds a browser waits before it reconnects

    def __post_init__(self) -> None:
        for name in ("id", "event", "retry"):
            if re.search(r"[\r\n\0]", str(getattr(self, name))):
                value = getattr(self, name)
                raise ValueError(
                    f"The {name} of an event must be one line without NUL, not {value!r}."
                )

    def encode(self) -> bytes:
        fields = {"id": self.id, "event": self.event, "retry": self.retry}
        lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
        if self.data is not None:
            is_text = isinstance(self.data, str)
            text = self.data if is_text else json.dumps(self.data, cls=DjangoJSONEncoder)
            lines += [f"data: {line}" for line in re.split(r"\r\n|\r|\n", str(text))]
        return "\n".join([*lines, "", ""]).encode()


class EventStreamResponse(StreamingHttpResponse):
    """A stream of server-sent events that holds no thread or database connection while it waits.

    Synchronous calls that produce the events, such as ORM queries, run in background threads with
    clean database connections. They see nothing that the view or middleware has set on its own
    thread or connection.
    """

    def __init__(
        self,
        events: AsyncIterable[ServerSentEvent],
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.encoded_events = encode_events(aiter(events), keep_alive_seconds)
        # The last header is for nginx, which would otherwise buffer some kilobytes.
        headers = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
        content_type = "text/event-stream"
        super().__init__(self.encoded_events, content_type=content_type, headers=headers)

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Django's method catches a TypeError from the iterator, and raises an unrelated one.
        return cast(AsyncIterator[bytes], self.streaming_content)

    async def aclose(self) -> None:
        """Close the iterator of events, so that its `finally` blocks run."""
        await self.encoded_events.aclose()


async def encode_events(
    events: AsyncIterator[ServerSentEvent], keep_alive_seconds: float
) -> AsyncGenerator[bytes, None]:
    """Yield the events as bytes, with comments that keep the connection open.

    A comment is sent at the start, and whenever there is no event for `keep_alive_seconds`.
    """
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def put_events() -> None:
        try:
            async for event in events:
                if not isinstance(event, ServerSentEvent):
                    raise TypeError(f"An event must be a ServerSentEvent, not {event!r}.")
                queue.put_nowait(event.encode())
                await queue.join()  # request the next event only after this one was sent
        finally:
            queue.put_nowait(None)
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    yield KEEP_ALIVE_COMMENT  # some servers send the headers only with the first part
    # One task runs the whole iterator, since `asyncio.timeout` may be used in it. If the current
    # task ran the iterator, the timeout below would cancel the call that the iterator awaits.
    task = asyncio.create_task(put_events())
    try:
        while True:
            try:
                async with asyncio.timeout(keep_alive_seconds):
                    part = await queue.get()
            except TimeoutError:
                yield KEEP_ALIVE_COMMENT
                continue
            if part is None:
                break
            yield part
            queue.task_done()
        await task  # raises the exception of the task
    finally:
        task.cancel()
        await asyncio.wait([task])


def get_last_event_id(request: HttpRequest) -> int | None:
    """Return the id of the last event that the client received, or None if it sent no number.

    A browser that reconnects sends the id in the `Last-Event-ID` header. A page that already shows
    events sends the id of the last one in the URL of its stream, as `?after=`.
    """
    value = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None
