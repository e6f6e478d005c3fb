"""The event stream: every new result, to every open page."""

import asyncio
import json
import time

from django.db.models import Max
from django.http import StreamingHttpResponse

from .models import Result

LOOK = 1  # s between two looks for new results
KEEP_ALIVE = 15  # s of silence after which a proxy might take the connection for dead
AT_MOST = 500  # results that a page which was away for long is sent


class Newest:
    """The id of the newest result. The database is asked once in `LOOK` seconds, for all streams."""

    id, asked = 0, 0.0

    async def get(self):
        now = time.monotonic()
        if now >= self.asked + LOOK:
            self.asked = now  # first, so that others do not ask meanwhile
            self.id = (await Result.objects.aaggregate(id=Max("id")))["id"] or 0
        return self.id


newest = Newest()


async def events(request):
    """Server-sent events; `Last-Event-ID`, or `?after=`, is the last one that the page has."""
    after = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    known = after.isascii() and after.isdigit() and len(after) < 19
    last = int(after) if known else await newest.get()
    return StreamingHttpResponse(
        stream(last),
        content_type="text/event-stream",
        # The last one is for nginx, which would wait until it has some kilobytes.
        headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
    )


async def stream(last):
    yield "retry: 2000\n\n"
    spoke = time.monotonic()
    while True:
        if await newest.get() > last:
            results = Result.objects.filter(id__gt=last).order_by("-id")[:AT_MOST]
            for result in [each async for each in results][::-1]:
                last = result.id
                yield f"id: {last}\ndata: {json.dumps(result.as_dict())}\n\n"
            spoke = time.monotonic()
        elif time.monotonic() > spoke + KEEP_ALIVE:
            yield ": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(LOOK)
