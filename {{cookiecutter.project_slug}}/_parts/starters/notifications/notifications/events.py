"""The event stream that updates the bell on each open page."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest
from django.utils.module_loading import import_string

from {{ cookiecutter.project_slug }}.serving import streams
from {{ cookiecutter.project_slug }}.serving.pubsub import subscribe

from .models import Notification
from .notify import CHANNEL_OF_ALL, get_channel

SESSION_CHECK_SECONDS = 10
MAX_NEW_NOTIFICATIONS = 100  # in one event


async def events(request: HttpRequest) -> streams.EventStreamResponse:
    """Stream the notifications of `?user=`, the page's user, unless another user has signed in."""
    user = await request.auser()
    user_id = user.pk if request.GET.get("user") == str(user.pk) else None
    last_id = streams.get_last_event_id(request)
    return streams.EventStreamResponse(stream(user_id, request.session.session_key, last_id))


async def stream(
    user_id: Any, session_key: str | None, last_id: int | None
) -> AsyncGenerator[streams.ServerSentEvent, None]:
    if user_id is None:  # after an error or an empty response, the page would retry
        yield streams.ServerSentEvent("Sign in to receive notifications.", event="signed-out")
        return
    yield streams.ServerSentEvent(retry=2000)
    own = Notification.objects.filter(user_id=user_id)
    newest = await own.order_by("-id").afirst()
    newest_id = newest.id if newest else 0
    last_id = newest_id if last_id is None else min(last_id, newest_id)
    # All ids, not just the newest: a transaction that commits later can have a lower one.
    sent = {last_id}
    unread = own.filter(is_read=False)
    newer = unread.filter(id__gt=last_id).order_by("-id")
    async with watch(get_channel(user_id), CHANNEL_OF_ALL) as changed:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), SESSION_CHECK_SECONDS)
            # Also before each event, so that nothing is sent after sign-out.
            if not await sync_to_async(is_signed_in)(user_id, session_key):
                return  # the page reconnects with its current cookie
            if changed.is_set():
                changed.clear()
                latest = [each async for each in newer.exclude(id__in=sent)[:MAX_NEW_NOTIFICATIONS]]
                sent |= {each.id for each in latest}
                new = [{"text": each.text, "url": each.path} for each in reversed(latest)]
                data = {"unread": await unread.acount(), "new": new}
                yield streams.ServerSentEvent(data, id=max(sent))


@asynccontextmanager
async def watch(*names: str) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set when a message was published, or may have been missed."""
    changed = asyncio.Event()

    async def set_when_published(channel: str) -> None:
        async with subscribe(channel) as payloads:
            async for _ in payloads:
                changed.set()

    tasks = [asyncio.create_task(set_when_published(name)) for name in names]
    try:
        yield changed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def is_signed_in(user_id: object, session_key: str | None) -> bool:
    """Return False after sign-out, deactivation, deletion or a new password, as Django does."""
    request = HttpRequest()
    request.session = import_string(f"{settings.SESSION_ENGINE}.SessionStore")(session_key)
    return bool(get_user(request).pk == user_id)
