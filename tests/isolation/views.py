import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from wiki.serving.streams import EventStreamResponse, ServerSentEvent

from . import litter
from .programs import read_owner, set_and_read_owner

READS = 3  # of a request, with a pause in between in which others run
closed: dict[int, str | None] = {}  # what the streams' own `close` read, by number
late_tasks: dict[int, tuple[asyncio.Event, asyncio.Task[list[str | None]]]] = {}  # with the event that lets them read


def sync(request: HttpRequest, program: str, owner: str, number: int) -> JsonResponse:
    return JsonResponse({"owners": [pause_and_read(program) for _ in range(READS)]})


def pause_and_read(program: str) -> str | None:
    time.sleep(0.001)
    return read_owner(program)


async def async_(request: HttpRequest, program: str, owner: str, number: int) -> JsonResponse:
    return JsonResponse({"owners": [await async_pause_and_read(program) for _ in range(READS)]})


async def async_pause_and_read(program: str) -> str | None:
    await asyncio.sleep(0.001)
    return await sync_to_async(read_owner)(program)


class WatchedStream(StreamingHttpResponse):
    """A plain stream that reads the owner once more when it is closed."""

    def __init__(self, lines: Iterator[str] | AsyncIterator[str], program: str, number: int) -> None:
        super().__init__(lines)
        self.program, self.number = program, number

    def close(self) -> None:
        closed[self.number] = read_owner(self.program)
        super().close()


def sync_stream(request: HttpRequest, program: str, owner: str, number: int) -> WatchedStream:
    def lines() -> Iterator[str]:
        for _ in range(READS):
            yield line(pause_and_read(program))

    return WatchedStream(lines(), program, number)


async def async_stream(request: HttpRequest, program: str, owner: str, number: int) -> WatchedStream:
    """An async generator of an async view."""

    async def lines() -> AsyncIterator[str]:
        for _ in range(READS):
            yield line(await async_pause_and_read(program))

    return WatchedStream(lines(), program, number)


def mixed_stream(request: HttpRequest, program: str, owner: str, number: int) -> WatchedStream:
    """An async generator of a sync view."""

    async def lines() -> AsyncIterator[str]:
        for _ in range(READS):
            yield line(await async_pause_and_read(program))

    return WatchedStream(lines(), program, number)


def line(owner: str | None) -> str:
    return f"data: {json.dumps(owner)}\n\n"


async def read_in_background(program: str, owner: str) -> AsyncIterator[str | None]:
    """Yield the owner that three calls see; the second call sets it."""
    yield await async_pause_and_read(program)
    yield await sync_to_async(set_and_read_owner)(program, owner)
    yield await async_pause_and_read(program)


async def events_in_background(program: str, owner: str) -> AsyncIterator[ServerSentEvent]:
    async for each in read_in_background(program, owner):
        yield ServerSentEvent(json.dumps(each))


async def event_stream(request: HttpRequest, program: str, owner: str, number: int) -> EventStreamResponse:
    return EventStreamResponse(events_in_background(program, owner))


def event_stream_of_sync_view(request: HttpRequest, program: str, owner: str, number: int) -> EventStreamResponse:
    return EventStreamResponse(events_in_background(program, owner))


async def late(request: HttpRequest, program: str, owner: str, number: int) -> HttpResponse:
    """Start a task that reads after its response was sent; `late_result` returns what it read."""
    answered = asyncio.Event()

    async def work() -> list[str | None]:
        await answered.wait()
        return [each async for each in read_in_background(program, owner)]

    late_tasks[number] = answered, asyncio.create_task(work())
    return HttpResponse(status=202)


async def late_result(request: HttpRequest, number: int) -> JsonResponse:
    answered, task = late_tasks.pop(number)
    answered.set()
    return JsonResponse({"owners": await task})


async def count_closed(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"closed": len(closed)})


async def closed_streams(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"owners": closed})


async def litter_in_stream(request: HttpRequest, open_transaction: int) -> EventStreamResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(await sync_to_async(litter.leave)(open_transaction))

    return EventStreamResponse(events())


async def inspect_in_stream(request: HttpRequest) -> EventStreamResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(await sync_to_async(litter.inspect)())

    return EventStreamResponse(events())


async def inspect_in_own_stream(request: HttpRequest, open_transaction: int) -> EventStreamResponse:
    """Leave state in one call, and look for it in later ones of the same stream."""

    async def events() -> AsyncIterator[ServerSentEvent]:
        await sync_to_async(litter.leave)(open_transaction)
        for _ in range(10):
            yield ServerSentEvent(await sync_to_async(litter.inspect)())

    return EventStreamResponse(events())


async def litter_in_task(request: HttpRequest, open_transaction: int) -> HttpResponse:
    answered = asyncio.Event()

    async def work() -> list[str | None]:
        await answered.wait()
        return [await sync_to_async(litter.leave)(open_transaction)]

    late_tasks[0] = answered, asyncio.create_task(work())
    return HttpResponse(status=202)
