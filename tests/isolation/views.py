import asyncio
import json
import time

from asgiref.sync import sync_to_async
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from wiki.serving.streams import EventStreamResponse

from . import litter
from .programs import read_owner, set_and_read_owner

READS = 3  # of a request, with a moment in between in which others run
closed = {}  # what the streams' own `close` read: {number: owner}
late_tasks = {}  # {number: (the event that lets it read, the task)}


def sync(request, program, owner, number):
    return JsonResponse({"owners": [pause_and_read(program) for _ in range(READS)]})


def pause_and_read(program):
    time.sleep(0.001)
    return read_owner(program)


async def async_(request, program, owner, number):
    return JsonResponse({"owners": [await async_pause_and_read(program) for _ in range(READS)]})


async def async_pause_and_read(program):
    await asyncio.sleep(0.001)
    return await sync_to_async(read_owner)(program)


class WatchedStream(StreamingHttpResponse):
    """A plain stream that reads whose it is once more when it is closed."""

    def __init__(self, lines, program, number):
        super().__init__(lines)
        self.program, self.number = program, number

    def close(self):
        closed[self.number] = read_owner(self.program)
        super().close()


def sync_stream(request, program, owner, number):
    def lines():
        for _ in range(READS):
            yield line(pause_and_read(program))

    return WatchedStream(lines(), program, number)


async def async_stream(request, program, owner, number):
    """An async generator of an async view."""

    async def lines():
        for _ in range(READS):
            yield line(await async_pause_and_read(program))

    return WatchedStream(lines(), program, number)


def mixed_stream(request, program, owner, number):
    """An async generator of a sync view."""

    async def lines():
        for _ in range(READS):
            yield line(await async_pause_and_read(program))

    return WatchedStream(lines(), program, number)


def line(owner):
    return f"{json.dumps(owner)}\n"


async def read_in_background(program, owner):
    """Whose data three calls see; the second sets it itself."""
    yield await async_pause_and_read(program)
    yield await sync_to_async(set_and_read_owner)(program, owner)
    yield await async_pause_and_read(program)


async def event_stream(request, program, owner, number):
    async def lines():
        async for each in read_in_background(program, owner):
            yield line(each)

    return EventStreamResponse(lines())


def event_stream_of_sync_view(request, program, owner, number):
    async def lines():
        async for each in read_in_background(program, owner):
            yield line(each)

    return EventStreamResponse(lines())


async def late(request, program, owner, number):
    """A task that reads when its request has been answered, and the client asks for what it read."""
    answered = asyncio.Event()

    async def work():
        await answered.wait()
        return [each async for each in read_in_background(program, owner)]

    late_tasks[number] = answered, asyncio.create_task(work())
    return HttpResponse(status=202)


async def late_result(request, number):
    answered, task = late_tasks.pop(number)
    answered.set()
    return JsonResponse({"owners": await task})


async def how_many_closed(request):
    return JsonResponse({"closed": len(closed)})


async def closed_streams(request):
    return JsonResponse({"owners": closed})


async def litter_in_stream(request, open_transaction):
    async def lines():
        yield json.dumps(await sync_to_async(litter.leave)(open_transaction))

    return EventStreamResponse(lines())


async def inspect_in_stream(request):
    async def lines():
        yield json.dumps(await sync_to_async(litter.inspect)())

    return EventStreamResponse(lines())


async def inspect_in_own_stream(request, open_transaction):
    """Leave litter in one call, look for it in the next ones of the same stream."""

    async def lines():
        await sync_to_async(litter.leave)(open_transaction)
        for _ in range(10):
            yield json.dumps(await sync_to_async(litter.inspect)()) + "\n"

    return EventStreamResponse(lines())


async def litter_in_task(request, open_transaction):
    answered = asyncio.Event()

    async def work():
        await answered.wait()
        return [await sync_to_async(litter.leave)(open_transaction)]

    late_tasks[0] = answered, asyncio.create_task(work())
    return HttpResponse(status=202)
