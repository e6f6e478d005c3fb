"""The WebSocket of one member of a room.

A message is stored first, and then sent to the channel layer as an event with the id of the
previous one. A member who has not received the previous one fetches all missing messages from the
database. As a result, no message is lost or duplicated, even if events are lost or late.
"""

import asyncio
import json
import logging
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.db import Error
from django.http import QueryDict
from django.utils import timezone
from django.utils.module_loading import import_string
from redis.exceptions import RedisError

from {{ cookiecutter.project_slug }}.serving.asgi_types import Receive, Scope, Send
from {{ cookiecutter.project_slug }}.serving.pubsub import PayloadTooLarge

from .models import Message, Presence, Room
from .names import get_display_name

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 2000
MAX_KEY_CHARACTERS = 36
FRAMES_PER_SECOND = 5  # the limit of each connection
MAX_BURST_FRAMES = 10
HEARTBEAT_INTERVAL_SECONDS = 10
# How long a client can be silent before a heartbeat pings it, or closes the connection.
PING_AFTER_SECONDS = 20
CLIENT_TIMEOUT_SECONDS = 40
PING = {"ping": True}
PRESENCE_TIMEOUT = timedelta(seconds=3 * HEARTBEAT_INTERVAL_SECONDS)
CATCH_UP_BATCH_SIZE = 200

# Close codes.
UNAUTHORIZED = 3000
# Instead of 1003 and 1008, which some servers do not let an application send.
UNSUPPORTED_DATA, POLICY_VIOLATION = 4003, 4008
PING_TIMEOUT = 4408

CHANNEL_LAYER_ERRORS = (Error, RedisError, OSError)  # raised by PostgreSQL or Redis


class FrameError(Exception):
    """A frame is invalid. The exception's message is sent to the client."""


class ChatConsumer(AsyncWebsocketConsumer):
    """Query string: `after=<id>` requests missed messages, `presence=1` requests members' names."""

    heartbeat_task: asyncio.Task[None] | None = None
    closed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.heartbeat_task:
                # A heartbeat in progress would mark the member as present again after `leave`.
                async with self.presence_lock:
                    self.heartbeat_task.cancel()
                await self.leave()

    async def connect(self) -> None:
        query = QueryDict(self.scope["query_string"])
        self.room: str = self.scope["url_route"]["kwargs"]["room"]
        self.group = f"chat.{self.room}"
        self.name = get_display_name(self.scope["user"], self.scope["cookies"])
        self.wants_presence = "presence" in query
        self.names_sent: list[str] | None = None
        self.frame_allowance: float = MAX_BURST_FRAMES
        self.last_frame_at = time.monotonic()
        self.send_lock, self.presence_lock = asyncio.Lock(), asyncio.Lock()
        self.heartbeat_task = asyncio.create_task(self.send_heartbeats())
        # Join before querying the newest message, so that no message is missed in between.
        await self.channel_layer.group_add(self.group, self.channel_name)
        after = query.get("after", "")
        self.last_id = await get_newest_id(self.room)
        if after.isascii() and after.isdigit() and len(after) < 19:
            self.last_id = min(self.last_id, int(after))
        await self.accept()
        self.closed = False
        await self.catch_up()
        await self.mark_present()

    async def leave(self) -> None:
        with suppress(*CHANNEL_LAYER_ERRORS):
            await self.channel_layer.group_discard(self.group, self.channel_name)
        await Presence.objects.filter(channel=self.channel_name).adelete()
        await self.broadcast({"type": "chat.presence", "here": await get_present_names(self.room)})

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.closed:  # the frame was in flight
            return
        if text_data is None:
            await self.close(UNSUPPORTED_DATA, "Binary frames are not supported.")
            return
        error_fields: dict[str, object] = {}
        within_limit = self.count_frame()
        try:
            text, key = parse(text_data)
            if key:
                error_fields["key"] = key
            if not within_limit:
                error_fields["wait"] = 1  # second
                raise FrameError(f"Too fast: send at most {FRAMES_PER_SECOND} messages per second.")
        except FrameError as error:
            await self.send_json({"error": str(error)} | error_fields)
            if self.frame_allowance < -2 * MAX_BURST_FRAMES:
                await self.close(POLICY_VIOLATION, "Too many messages.")
            return
        if text is None:  # the reply to a ping
            return
        message, previous_id = await sync_to_async(Room.store_message)(
            self.room, self.name, text, key
        )
        if key:
            await self.send_json({"stored": key})
        event = {"type": "chat.message", "previous": previous_id, "message": message.as_dict()}
        if not await self.broadcast(event):
            await self.catch_up()

    async def send_json(self, frame: dict[str, Any]) -> None:
        """Send the frame, unless the connection is closed."""
        if not self.closed:
            try:
                await self.send(json.dumps(frame))
            except OSError:
                self.closed = True

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.closed = True
        await super().close(code, reason)

    def count_frame(self) -> bool:
        """Count a frame and return whether the connection is within its rate limit."""
        now = time.monotonic()
        allowance = self.frame_allowance + (now - self.last_frame_at) * FRAMES_PER_SECOND
        self.frame_allowance, self.last_frame_at = min(MAX_BURST_FRAMES, allowance) - 1, now
        return self.frame_allowance >= 0

    async def broadcast(self, event: dict[str, Any]) -> bool:
        """Send the event to all members and return whether the channel layer accepted it."""
        try:
            await self.channel_layer.group_send(self.group, event)
        except PayloadTooLarge:
            return await self.broadcast({"type": "chat.refresh"})
        except CHANNEL_LAYER_ERRORS as error:
            # Other members fetch the message with their next heartbeat.
            logger.warning("The channel layer is not available: %s", error)
            return False
        return True

    async def chat_message(self, event: dict[str, Any]) -> None:
        message = event["message"]
        async with self.send_lock:
            is_next = event["previous"] == self.last_id
            if is_next:
                await self.deliver(message)
        if not is_next and message["id"] > self.last_id:
            await self.catch_up()

    async def chat_refresh(self, event: dict[str, Any]) -> None:
        """Fetch the message that was too large for an event. The next heartbeat sends the names."""
        await self.catch_up()

    async def catch_up(self) -> None:
        """Send the messages stored since the last one that the client received."""
        async with self.send_lock:
            messages = Message.objects.filter(room__name=self.room)
            while batch := [
                message
                async for message in messages.filter(id__gt=self.last_id)[:CATCH_UP_BATCH_SIZE]
            ]:
                for message in batch:
                    await self.deliver(message.as_dict())

    async def deliver(self, message: dict[str, Any]) -> None:
        await self.send_json(message)
        self.last_id = message["id"]

    async def mark_present(self) -> None:
        """Store that this member is present, and broadcast the names if the member is new."""
        now = timezone.now()
        _, is_new = await Presence.objects.aupdate_or_create(
            channel=self.channel_name,
            defaults={"seen": now},
            create_defaults={"seen": now, "room": self.room, "user": self.name},
        )
        # A killed process does not delete its rows.
        await Presence.objects.filter(seen__lt=now - PRESENCE_TIMEOUT).adelete()
        names = await get_present_names(self.room)
        if is_new:
            await self.broadcast({"type": "chat.presence", "here": names})
        await self.chat_presence({"here": names})

    async def chat_presence(self, event: dict[str, Any]) -> None:
        if self.wants_presence and event["here"] != self.names_sent:
            self.names_sent = event["here"]
            await self.send_json({"here": self.names_sent})

    async def send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_SECONDS)
            try:
                if not await has_same_user(self.scope):
                    await self.close(UNAUTHORIZED, "You are no longer signed in.")
                    return
                # Some servers do not send WebSocket pings, and proxies close idle connections.
                idle_seconds = time.monotonic() - self.last_frame_at
                if idle_seconds >= CLIENT_TIMEOUT_SECONDS:
                    await self.close(PING_TIMEOUT, "No reply to pings.")
                    return
                if idle_seconds >= PING_AFTER_SECONDS:
                    await self.send_json(PING)
                async with self.presence_lock:
                    await self.mark_present()
                await self.catch_up()
            except Exception:  # the next heartbeat may succeed
                logger.exception("A heartbeat failed")


async def has_same_user(scope: dict[str, Any]) -> bool:
    """Return whether the user is still signed in and active, with the same password."""
    user, session = scope["user"], scope["session"]
    if not user.is_authenticated:
        return True
    session_store = import_string(f"{settings.SESSION_ENGINE}.SessionStore")
    user_id = await session_store(session.session_key).aget(SESSION_KEY)
    current = await get_user_model().objects.filter(pk=user.pk).afirst()
    return (
        user_id == session[SESSION_KEY]
        and current is not None
        and current.is_active
        and current.get_session_auth_hash() == user.get_session_auth_hash()
    )


def parse(text: str) -> tuple[str | None, str | None]:
    """Return the message and its optional key, or two Nones for the reply to a ping.

    Raises FrameError for anything else.
    """
    # JSON can escape one character as twelve. Longer text is over the limit in any case.
    if len(text) > 16 * MAX_MESSAGE_CHARACTERS:
        raise FrameError(f"The message is longer than {MAX_MESSAGE_CHARACTERS:,} characters.")
    try:
        frame = json.loads(text)
        if frame == PING:
            return None, None
        message, key = frame["message"].strip(), frame.get("key")
        for each in (message, key or ""):
            each.encode()  # fails for half of a surrogate pair, which cannot be stored
            if "\0" in each:
                raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise FrameError('Send JSON like {"message": "hello"}.') from None
    if not message:
        raise FrameError("The message is empty.")
    if len(message) > MAX_MESSAGE_CHARACTERS:
        raise FrameError(f"The message is longer than {MAX_MESSAGE_CHARACTERS:,} characters.")
    if key and len(key) > MAX_KEY_CHARACTERS:
        raise FrameError(f"The key is longer than {MAX_KEY_CHARACTERS} characters.")
    return message, key or None


async def get_newest_id(room: str) -> int:
    newest = await Message.objects.filter(room__name=room).order_by("-id").afirst()
    return newest.id if newest else 0


async def get_present_names(room: str) -> list[str]:
    """Return the names of the present members, without duplicates."""
    names = Presence.objects.filter(room=room).order_by("user").values_list("user", flat=True)
    return [name async for name in names.distinct()]
