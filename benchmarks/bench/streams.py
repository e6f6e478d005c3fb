"""An event stream that waits for /bench/tick/: `EventStreamResponse` where there is one, else plain Django."""

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

streams: Any
try:
    streams = import_module(f"{settings.ROOT_URLCONF.partition('.')[0]}.serving.streams")
except ModuleNotFoundError:
    streams = None

next_tick = asyncio.Event()


async def events(request: HttpRequest) -> StreamingHttpResponse:
    if streams:
        response: StreamingHttpResponse = streams.EventStreamResponse(wait_for_ticks(streams.ServerSentEvent("tick")))
        return response
    return StreamingHttpResponse(plain_events(), content_type="text/event-stream")


async def plain_events() -> AsyncIterator[bytes]:
    yield b": keep-alive\n\n"
    async for event in wait_for_ticks(b"data: tick\n\n"):
        yield event


async def wait_for_ticks(event: Any) -> AsyncIterator[Any]:
    while True:
        await next_tick.wait()
        yield event


async def tick(request: HttpRequest) -> HttpResponse:
    global next_tick
    next_tick.set()
    next_tick = asyncio.Event()
    return HttpResponse()
