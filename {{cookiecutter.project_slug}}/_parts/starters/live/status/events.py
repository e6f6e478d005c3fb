"""The event stream that sends every new result to every open page."""

import asyncio
import time
from collections.abc import AsyncGenerator

from django.db.models import Max
from django.http import HttpRequest

from {{ cookiecutter.project_slug }}.serving.streams import (
    EventStreamResponse,
    ServerSentEvent,
    get_last_event_id,
)

from .models import Result

POLL_INTERVAL_SECONDS = 1
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
    """Stream the results after the last one that the page has."""
    last_id = get_last_event_id(request)
    return EventStreamResponse(stream(await get_newest_id() if last_id is None else last_id))


async def stream(last_id: int) -> AsyncGenerator[ServerSentEvent, None]:
    yield ServerSentEvent(retry=2000)
    while True:
        if await newest_id.get() > last_id:
            results = Result.objects.filter(id__gt=last_id).order_by("-id")[:MAX_MISSED_RESULTS]
            for result in [each async for each in results][::-1]:
                last_id = result.id
                yield ServerSentEvent(result.as_dict(), id=last_id)
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
