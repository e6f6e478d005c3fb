"""Hardening for hypercorn against client behavior that none of its options prevents."""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Any

import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
from h11 import Request
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import EndData, Event, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WebsocketBuffer, WSStream
from wsproto.events import Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason


def install() -> None:
    """Change what hypercorn accepts. Call this when the application is loaded."""
    hypercorn.protocol.H11Protocol = HardenedH11Protocol  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = LimitedWSStream  # type: ignore[assignment, attr-defined]
    hypercorn.protocol.h11.WSStream = LimitedWSStream  # type: ignore[assignment, attr-defined]
    ws_stream.WebsocketBuffer = ByteLimitedBuffer  # type: ignore[misc]
    # Hypercorn decompresses a whole message before it checks the size.
    ws_stream.server_extensions_handshake = accept_no_extension  # type: ignore[assignment, attr-defined]


class HardenedH11Protocol(H11Protocol):
    # This method, which lets a request switch to another protocol, is not in hypercorn's
    # documentation.
    async def _check_protocol(self, event: Request) -> None:
        """Ignore `Upgrade: h2c`. Proxies pass it on, and the client could then bypass their rules.

        HTTP/2 from the start (`PRI * HTTP/2.0`) stays allowed: only the proxy itself can send that.
        """
        if event.http_version == b"2.0":
            await super()._check_protocol(event)


def accept_no_extension(*args: object) -> None:
    """Decline the compression that a client offers. Replaces `server_extensions_handshake`."""


class ByteLimitedBuffer(WebsocketBuffer):
    def extend(self, event: Message) -> None:
        if isinstance(event, TextMessage):  # hypercorn counts its characters, not bytes
            self.length += len(event.data.encode()) - len(event.data)
        super().extend(event)


class LimitedWSStream(WSStream):
    """Ends the connection after too large a message, or when the client ignores a ping.

    Hypercorn would keep the rest of the message in memory, and the connection open forever.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended = asyncio.Event()
        self.last_received = 0.0

    async def handle(self, event: Event) -> None:
        self.last_received = monotonic()
        await super().handle(event)
        if self.closed:
            self.ended.set()

    async def _handle_events(self) -> None:
        await super()._handle_events()
        if self.buffer.length > self.buffer.max_length:
            self.buffer.clear()
            await self.end_connection(CloseReason.MESSAGE_TOO_BIG)

    async def _send_pings(self) -> None:
        while not self.closed:
            pinged = monotonic()
            # In a separate task, since a client that does not read would block this one.
            self.task_group.spawn(self._send_wsproto_event, Ping())
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), self.config.websocket_ping_interval)
            if self.last_received < pinged and not self.closed:
                await self.end_connection(CloseReason.ABNORMAL_CLOSURE)

    async def end_connection(self, code: int) -> None:
        self.closed, self.state = True, ASGIWebsocketState.CLOSED
        if self.app_put:
            await self.app_put({"type": "websocket.disconnect", "code": code})
        await self.send(EndData(stream_id=self.stream_id))
        if self.handshake.http_version == "1.1":  # over HTTP/2, other requests share the connection
            await self.send(StreamClosed(stream_id=self.stream_id))
