"""The live starter's event stream by other ways, and the programs that publish and subscribe: benchmarks/push.py."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.db import transaction
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path
from site_1.serving.pubsub import publish_sync, subscribe
from site_1.serving.streams import EventStreamResponse, ServerSentEvent
from status.events import publish_result
from status.models import Result, Service

GROUP = "bench"


async def redis_events(request: HttpRequest) -> EventStreamResponse:
    return EventStreamResponse(stream_from_channel_layer())


async def stream_from_channel_layer() -> AsyncGenerator[ServerSentEvent, None]:
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    try:
        while True:
            result = (await layer.receive(channel))["result"]
            yield ServerSentEvent(result, id=result["id"])
    finally:
        await layer.group_discard(GROUP, channel)


class NewestId:
    """As the starter had it before: all streams of a process share one query per second."""

    id, queried_at = 0, 0.0

    async def get(self) -> int:
        if (now := time.monotonic()) >= self.queried_at + 1:
            self.queried_at = now
            newest = await Result.objects.order_by("-id").afirst()
            self.id = newest.id if newest else 0
        return self.id


newest_id = NewestId()


async def polling_events(request: HttpRequest) -> EventStreamResponse:
    return EventStreamResponse(poll(await newest_id.get()))


async def poll(last_id: int) -> AsyncGenerator[ServerSentEvent, None]:
    while True:
        if await newest_id.get() > last_id:
            async for result in Result.objects.filter(id__gt=last_id):
                last_id = result.id
                yield ServerSentEvent(result.as_dict(), id=last_id)
        await asyncio.sleep(1)


def sync_events(request: HttpRequest) -> StreamingHttpResponse:
    """As tutorials write it for WSGI: each stream has a thread, a connection, and a query per second."""

    def poll() -> Iterator[bytes]:
        newest = Result.objects.order_by("-id").first()
        last_id = newest.id if newest else 0
        yield b": keep-alive\n\n"
        while True:
            for result in Result.objects.filter(id__gt=last_id):
                last_id = result.id
                yield ServerSentEvent(result.as_dict(), id=last_id).encode()
            time.sleep(1)

    return StreamingHttpResponse(poll(), content_type="text/event-stream")


urlpatterns = [path("redis/", redis_events), path("polling/", polling_events), path("sync/", sync_events)]


async def save_results(way: str) -> None:
    """Save a result for each line of the standard input; print the time just before its commit."""
    service, _ = await Service.objects.aget_or_create(name=way, url=f"http://127.0.0.1/{way}")
    layer = get_channel_layer()

    def save() -> tuple[Result, float]:
        with transaction.atomic():
            result = Result.objects.create(service=service, state="up", milliseconds=1, detail="200")
            if way == "notify":
                publish_result(result)
            return result, time.time()

    while await asyncio.to_thread(sys.stdin.readline):
        result, committed = await sync_to_async(save)()
        if way == "redis":
            await layer.group_send(GROUP, {"type": "result", "result": result.as_dict()})
        print(committed, flush=True)


async def send(way: str, count: int) -> None:
    """Send messages of 200 bytes, one after the other; print how long it took."""
    layer, text = get_channel_layer(), "x" * 200
    start = time.perf_counter()
    if way == "redis":
        for _ in range(count):
            await layer.group_send(GROUP, {"type": "message", "text": text})
    else:
        await sync_to_async(lambda: [publish_sync(GROUP, text) for _ in range(count)])()
    print(json.dumps({"sent": count / (time.perf_counter() - start)}))


async def receive(way: str, count: int) -> None:
    """Print a line when messages can come, and how many have come per second when all are there."""
    if way == "redis":
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add(GROUP, channel)
        print("ready", flush=True)
        await layer.receive(channel)
        start = time.perf_counter()
        for _ in range(count - 1):
            await layer.receive(channel)
    else:
        async with subscribe(GROUP) as payloads:
            await anext(payloads)
            print("ready", flush=True)
            await anext(payloads)
            start = time.perf_counter()
            for _ in range(count - 1):
                if await anext(payloads) is None:
                    os._exit(1)  # too slow: it has missed some
    print(json.dumps({"received": (count - 1) / (time.perf_counter() - start)}), flush=True)
