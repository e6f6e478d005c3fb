"""A WebSocket that keeps a page up to date."""

import asyncio
import json
import logging
import time
from typing import Any

from channels.auth import get_user
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.utils.module_loading import import_string

from .asgi_types import Receive, Scope, Send
from .pubsub import subscribe

HEARTBEAT_INTERVAL_SECONDS = 10
MAX_SILENT_HEARTBEATS = 4
MAX_FRAMES_PER_HEARTBEAT = 100
MAX_FRAME_CHARACTERS = 10_000
PING = {"ping": True}
# Close codes.
UNAUTHORIZED, PING_TIMEOUT, TOO_MANY_FRAMES, FAILED = 3000, 4408, 4429, 4500

logger = logging.getLogger(__name__)


class FrameError(Exception):
    """A frame is invalid. The exception's message is sent to the client."""


class StateConsumer(AsyncWebsocketConsumer):
    """Sends a state to the client, as JSON, whenever it changes.

    States are published on the channel `topic`. After an empty payload, the consumer calls
    `read_state` instead. Published states can be lost, so each heartbeat also calls `read_state`,
    and sends the state if it has changed. The client must send each ping back.
    """

    topic: str
    closed = False
    frames = silent_heartbeats = 0
    state_task: asyncio.Task[None] | None = None

    async def read_state(self) -> str:
        raise NotImplementedError

    async def receive_pong(self) -> None:
        """Handle the reply to a ping."""

    async def receive_frame(self, frame: Any) -> None:
        """Handle any other frame, decoded from JSON, or raise FrameError."""
        raise FrameError("This connection accepts only replies to pings.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.state_task:
                self.state_task.cancel()

    async def connect(self) -> None:
        await self.accept()
        self.state_task = asyncio.create_task(self.send_states())

    async def send_states(self) -> None:
        sent, heartbeat_at = "", time.monotonic()
        try:
            async with subscribe(self.topic) as states:
                while not self.closed:
                    state = None
                    try:
                        async with asyncio.timeout(heartbeat_at - time.monotonic()):
                            state = await anext(states)
                    except TimeoutError:
                        heartbeat_at = time.monotonic() + HEARTBEAT_INTERVAL_SECONDS
                        await self.send_heartbeat()
                    state = state or await self.read_state()
                    if state != sent:
                        await self.send(state)
                    sent = state
        except Exception:  # the client reconnects and gets the state
            logger.exception("Could not send the state of %s; the connection is closed", self.topic)
            await self.close(FAILED, "An error occurred on the server.")

    async def send_heartbeat(self) -> None:
        self.silent_heartbeats = 0 if self.frames else self.silent_heartbeats + 1
        self.frames = 0
        if not await has_same_user(self.scope):
            await self.close(UNAUTHORIZED, "You are no longer signed in.")
        elif self.silent_heartbeats > MAX_SILENT_HEARTBEATS:
            await self.close(PING_TIMEOUT, "No reply to pings.")
        else:
            await self.send(json.dumps(PING))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.frames += 1
        if self.closed:  # the frame was in flight
            return
        if self.frames > MAX_FRAMES_PER_HEARTBEAT:
            await self.close(TOO_MANY_FRAMES, "Too many messages.")
            return
        try:
            frame = parse(text_data or "")
            await (self.receive_pong() if frame == PING else self.receive_frame(frame))
        except FrameError as error:
            await self.send(json.dumps({"error": str(error)}))

    async def send(self, text_data: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Send the frame, unless the connection is closed."""
        if not self.closed:
            try:
                await super().send(text_data, *args, **kwargs)
            except OSError:
                self.closed = True

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.closed = True
        await super().close(code, reason)


def parse(text: str) -> Any:
    if len(text) > MAX_FRAME_CHARACTERS:
        raise FrameError(f"The message is longer than {MAX_FRAME_CHARACTERS:,} characters.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError("The message is not valid JSON.") from None


async def has_same_user(scope: dict[str, Any]) -> bool:
    """Return whether the user is still signed in and active, with the same password."""
    session_store = import_string(f"{settings.SESSION_ENGINE}.SessionStore")
    session = session_store(scope["session"].session_key)
    return bool(await get_user({"session": session}) == scope["user"])
