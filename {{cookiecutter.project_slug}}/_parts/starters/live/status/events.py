"""The event stream that sends each new result to all open pages."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from django.db.models import Max
from django.http import HttpRequest

from {{ cookiecutter.project_slug }}.serving.pubsub import publish_sync, subscribe
from {{ cookiecutter.project_slug }}.serving.streams import (
    EventStreamResponse,
    ServerSentEvent,
    get_last_event_id,
)

from .models import Result

CHANNEL = "results"
MAX_MISSED_RESULTS = 500  # sent to a page that reconnects


def publish_result(result: Result) -> None:
    """Send the result to the streams of all processes when the current transaction commits."""
    publish_sync(CHANNEL, json.dumps(result.as_dict()))


async def events(request: HttpRequest) -> EventStreamResponse:
    """Stream the results that are newer than the last one on the page."""
    last_id = get_last_event_id(request)
    if last_id is None:
        last_id = (await Result.objects.aaggregate(id=Max("id")))["id"] or 0
    return EventStreamResponse(stream(last_id))


async def stream(last_id: int) -> AsyncGenerator[ServerSentEvent, None]:
    yield ServerSentEvent(retry=2000)
    async with subscribe(CHANNEL) as payloads:
        async for payload in payloads:
            new = [json.loads(payload)] if payload else await get_results_after(last_id)
            for result in new:
                if result["id"] > last_id:
                    last_id = result["id"]
                    yield ServerSentEvent(result, id=last_id)


async def get_results_after(last_id: int) -> list[dict[str, Any]]:
    results = Result.objects.filter(id__gt=last_id).order_by("-id")[:MAX_MISSED_RESULTS]
    return [result.as_dict() async for result in results][::-1]
