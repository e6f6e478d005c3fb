"""The event stream: every new result, to every open page."""

import asyncio
import json
import time

from django.db.models import Max

from {{ cookiecutter.project_slug }}.serving.streams import EventStreamResponse

from .models import Result

POLL_INTERVAL_SECONDS = 1
KEEP_ALIVE_SECONDS = 15  # of silence, after which a proxy may close the connection
MAX_MISSED_RESULTS = 500  # sent to a page that was away


class Newest:
    """The id of the newest result. The database is asked once in `POLL_INTERVAL_SECONDS`, for all streams."""

    id, asked = 0, 0.0

    async def get(self):
        now = time.monotonic()
        if now >= self.asked + POLL_INTERVAL_SECONDS:
            self.asked = now  # first, so that others do not ask meanwhile
            self.id = await get_newest_id()
        return self.id


async def get_newest_id() -> int:
    return (await Result.objects.aaggregate(id=Max("id")))["id"] or 0


newest = Newest()


async def events(request):
    """Server-sent events; `Last-Event-ID`, or `?after=`, is the last one that the page has."""
    after = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    known = after.isascii() and after.isdigit() and len(after) < 19
    last = int(after) if known else await get_newest_id()
    return EventStreamResponse(stream(last))


async def stream(last):
    yield "retry: 2000\n\n"
    spoke = time.monotonic()
    while True:
        if await newest.get() > last:
            results = Result.objects.filter(id__gt=last).order_by("-id")[:MAX_MISSED_RESULTS]
            for result in [each async for each in results][::-1]:
                last = result.id
                yield f"id: {last}\ndata: {json.dumps(result.as_dict())}\n\n"
            spoke = time.monotonic()
        elif time.monotonic() > spoke + KEEP_ALIVE_SECONDS:
            yield ": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
