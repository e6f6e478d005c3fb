"""The event stream that sends every new result to every open page."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator

from django.db.models import Max
from django.http import HttpRequest

from {{ cookiecutter.project_slug }}.serving.streams import EventStreamResponse

from .models import Result

POLL_INTERVAL_SECONDS = 1
KEEP_ALIVE_SECONDS = 15  # proxies close connections that are idle for longer
MAX_MISSED_RESULTS = 500  # that a page gets when it reconnects


class NewestIdCache:
    """The id of the newest result. All streams share one query in `POLL_INTERVAL_SECONDS`."""

    id, queried_at = 0, 0.0

    async def get(self) -> int:
        now = time.monotonic()
        if now >= self.queried_at + POLL_INTERVAL_SECONDS:
            self.queried_at = now  # first, so that no other stream queries meanwhile
            self.id = await get_newest_id()
        return self.id


async def get_newest_id() -> int:
    return (await Result.objects.aaggregate(id=Max("id")))["id"] or 0


newest_id = NewestIdCache()


async def events(request: HttpRequest) -> EventStreamResponse:
    """Stream the results after `Last-Event-ID`, or `?after=`: the last one that the page has."""
    after = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    is_id = after.isascii() and after.isdigit() and len(after) < 19
    last_id = int(after) if is_id else await get_newest_id()
    return EventStreamResponse(stream(last_id))


async def stream(last_id: int) -> AsyncGenerator[str, None]:
    yield "retry: 2000\n\n"
    last_sent_at = time.monotonic()
    while True:
        if await newest_id.get() > last_id:
            results = Result.objects.filter(id__gt=last_id).order_by("-id")[:MAX_MISSED_RESULTS]
            for result in [each async for each in results][::-1]:
                last_id = result.id
                yield f"id: {last_id}\ndata: {json.dumps(result.as_dict())}\n\n"
            last_sent_at = time.monotonic()
        elif time.monotonic() > last_sent_at + KEEP_ALIVE_SECONDS:
            yield ": keep-alive\n\n"
            last_sent_at = time.monotonic()
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
