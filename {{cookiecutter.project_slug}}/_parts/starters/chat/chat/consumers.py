"""The WebSocket of one member of a room.

Messages are stored first; what goes through the channel layer only says that there is one. A member is
sent every message with an id above the last one it has, in order, so that nothing is lost or doubled
when events are, or come late.
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
from django.http import QueryDict
from django.utils import timezone
from django.utils.module_loading import import_string
from redis.exceptions import RedisError

from .models import Message, Presence, Room
from .names import name_of

logger = logging.getLogger(__name__)

LIMIT = 2000  # characters of a message
FRAMES_PER_SECOND = 5  # that a connection may send
MAX_BURST_FRAMES = 10
HEARTBEAT_INTERVAL_SECONDS = 10
# How long a client may send nothing until a heartbeat asks it for an answer, or closes the connection.
PING_AFTER_SECONDS = 20
CLIENT_TIMEOUT_SECONDS = 40
PING = {"ping": True}
GONE = timedelta(seconds=3 * HEARTBEAT_INTERVAL_SECONDS)
BATCH = 200

UNAUTHORIZED = 3000
# As 1003 and 1008, which not every server lets an application send.
UNSUPPORTED_DATA, POLICY_VIOLATION = 4003, 4008
NO_ANSWER = 4408


class Refused(Exception):
    """The sentence is for the client."""


class ChatConsumer(AsyncWebsocketConsumer):
    """Query string: `after=<id>` asks for what was missed since, `presence=1` for who is here."""

    heart, closed = None, True

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.heart:
                # A heartbeat in progress would add this member again after it has left.
                async with self.presence_lock:
                    self.heart.cancel()
                await self.leave()

    async def connect(self):
        query = QueryDict(self.scope["query_string"])
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.group = f"chat.{self.room}"
        self.name = name_of(self.scope["user"], self.scope["cookies"])
        self.wants_presence, self.here = "presence" in query, None
        self.allowance, self.last_frame_at = MAX_BURST_FRAMES, time.monotonic()
        self.turn, self.presence_lock = asyncio.Lock(), asyncio.Lock()
        self.heart = asyncio.create_task(self.beat())
        # Before the look at what there is, so that nothing can fall between the two.
        await self.channel_layer.group_add(self.group, self.channel_name)
        after = query.get("after", "")
        self.last = await newest_id(self.room)
        if after.isascii() and after.isdigit() and len(after) < 19:
            self.last = min(self.last, int(after))
        await self.accept()
        self.closed = False
        await self.catch_up()
        await self.be_present()

    async def leave(self):
        with suppress(RedisError, OSError):
            await self.channel_layer.group_discard(self.group, self.channel_name)
        await Presence.objects.filter(channel=self.channel_name).adelete()
        await self.tell({"type": "chat.presence", "here": await names_in(self.room)})

    async def receive(self, text_data=None, bytes_data=None):
        if self.closed:  # frames that were under way
            return
        if text_data is None:
            return await self.close(UNSUPPORTED_DATA, "Text frames only.")
        given, in_time = {}, self.is_in_time()
        try:
            text, key = parse(text_data)
            given = {"key": key} if key else {}
            if not in_time:
                given["wait"] = 1  # second
                raise Refused(f"Not so fast: {FRAMES_PER_SECOND} messages per second at most.")
        except Refused as refusal:
            await self.answer({"error": str(refusal)} | given)
            if self.allowance < -2 * MAX_BURST_FRAMES:
                await self.close(POLICY_VIOLATION, "Too many messages.")
            return
        if text is None:  # the answer to a ping
            return
        message, previous = await sync_to_async(Room.store)(self.room, self.name, text, key)
        if key:
            await self.answer({"stored": key})
        event = {"type": "chat.message", "previous": previous, "message": message.as_dict()}
        if not await self.tell(event):
            await self.catch_up()

    async def answer(self, frame):
        """Send it, unless the connection was closed by either side."""
        if not self.closed:
            try:
                await self.send(json.dumps(frame))
            except OSError:
                self.closed = True

    async def close(self, code=None, reason=None):
        self.closed = True
        await super().close(code, reason)

    def is_in_time(self):
        """Count a frame; False if there were too many lately."""
        now = time.monotonic()
        allowance = self.allowance + (now - self.last_frame_at) * FRAMES_PER_SECOND
        self.allowance, self.last_frame_at = min(MAX_BURST_FRAMES, allowance) - 1, now
        return self.allowance >= 0

    async def tell(self, event):
        """Send it to all members; False if that was not possible."""
        try:
            await self.channel_layer.group_send(self.group, event)
        except (RedisError, OSError) as error:
            # The heartbeats bring to the others what they miss now.
            logger.warning("Redis does not answer: %s", error)
            return False
        return True

    async def chat_message(self, event):
        message = event["message"]
        async with self.turn:
            follows = event["previous"] == self.last
            if follows:
                await self.pass_on(message)
        if not follows and message["id"] > self.last:
            await self.catch_up()

    async def catch_up(self):
        """Send what was stored since the last message that the client has."""
        async with self.turn:
            messages = Message.objects.filter(room__name=self.room)
            while batch := [each async for each in messages.filter(id__gt=self.last)[:BATCH]]:
                for message in batch:
                    await self.pass_on(message.as_dict())

    async def pass_on(self, message):
        await self.answer(message)
        self.last = message["id"]

    async def be_present(self):
        """Write down that this member is here, and tell all if that is news."""
        now = timezone.now()
        _, is_news = await Presence.objects.aupdate_or_create(
            channel=self.channel_name,
            defaults={"seen": now},
            create_defaults={"seen": now, "room": self.room, "user": self.name},
        )
        # Those of a process that was killed.
        await Presence.objects.filter(seen__lt=now - GONE).adelete()
        here = await names_in(self.room)
        if is_news:
            await self.tell({"type": "chat.presence", "here": here})
        await self.chat_presence({"here": here})

    async def chat_presence(self, event):
        if self.wants_presence and event["here"] != self.here:
            self.here = event["here"]
            await self.answer({"here": self.here})

    async def beat(self):
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_SECONDS)
            try:
                if not await has_same_user(self.scope):
                    return await self.close(UNAUTHORIZED, "You are no longer signed in.")
                # Not every server sends pings of its own, and proxies end connections that are silent.
                silent_seconds = time.monotonic() - self.last_frame_at
                if silent_seconds >= CLIENT_TIMEOUT_SECONDS:
                    return await self.close(NO_ANSWER, "No answer.")
                if silent_seconds >= PING_AFTER_SECONDS:
                    await self.answer(PING)
                async with self.presence_lock:
                    await self.be_present()
                await self.catch_up()
            except Exception:  # the next beat tries again
                logger.exception("A heartbeat failed")


async def has_same_user(scope: dict[str, Any]) -> bool:
    """Say whether the user of the handshake is still signed in, active, and has the same password."""
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


def parse(text):
    """The message and its key, if it has one; None for both if it is the answer to a ping.

    Raises Refused for anything else.
    """
    if len(text) > 16 * LIMIT:  # not worth the time to read it: an escaped character may take 12
        raise Refused(f"A message may have {LIMIT:,} characters.")
    try:
        frame = json.loads(text)
        if frame == PING:
            return None, None
        message, key = frame["message"].strip(), frame.get("key")
        for each in (message, key or ""):
            each.encode()  # half of a surrogate pair cannot be stored
            if "\0" in each:
                raise ValueError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise Refused('Send JSON like {"message": "hello"}.') from None
    if not message:
        raise Refused("A message needs text in it.")
    if len(message) > LIMIT:
        raise Refused(f"A message may have {LIMIT:,} characters.")
    if key and len(key) > 36:
        raise Refused("A key may have 36 characters.")
    return message, key or None


async def newest_id(room):
    newest = await Message.objects.filter(room__name=room).order_by("-id").afirst()
    return newest.id if newest else 0


async def names_in(room):
    """Who is here, each name once."""
    names = Presence.objects.filter(room=room).order_by("user").values_list("user", flat=True)
    return [name async for name in names.distinct()]
