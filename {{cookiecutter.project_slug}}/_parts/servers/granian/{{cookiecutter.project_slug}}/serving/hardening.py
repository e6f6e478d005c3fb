"""Hardening for granian: limits WebSocket messages, and closes WebSockets at any time."""

import asyncio

from asgiref.typing import ASGIReceiveEvent, ASGISendEvent, WebSocketDisconnectEvent

from .asgi_types import ASGIApplication, Receive, Scope, Send

MESSAGE_TOO_BIG = 1009  # the close code of a WebSocket
SEND_TIMEOUT_SECONDS = 10  # for a client that has stopped reading


def harden_websocket(app: ASGIApplication, max_message_bytes: int) -> ASGIApplication:
    return CloseMiddleware(MessageLimitMiddleware(app, max_message_bytes))


class CloseMiddleware:
    """Lets an application close a WebSocket at any time.

    By itself, granian sends the close only when the application no longer waits for a message, so a
    silent client would stay connected. It also waits without limit for a client that does not read.
    Here, `send` then raises TimeoutError, which is an OSError, as other servers raise.
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pending: asyncio.Future[ASGIReceiveEvent] | None = None
        interrupted, closed = False, asyncio.Event()

        async def receive_until_closed() -> ASGIReceiveEvent:
            nonlocal pending
            pending = asyncio.ensure_future(receive())
            try:
                return await pending
            except asyncio.CancelledError:
                if not interrupted:
                    raise
            await closed.wait()
            return WebSocketDisconnectEvent(type="websocket.disconnect", code=1005, reason=None)

        async def send_after_interruption(event: ASGISendEvent) -> None:
            nonlocal interrupted
            if event["type"] == "websocket.close" and pending and not pending.done():
                interrupted = True
                pending.cancel()
                await asyncio.wait([pending])
            try:
                async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                    await send(event)
            finally:
                closed.set()

        await self.app(scope, receive_until_closed, send_after_interruption)


class MessageLimitMiddleware:
    """Closes a WebSocket when a message has more than `limit` bytes."""

    def __init__(self, app: ASGIApplication, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_limited() -> ASGIReceiveEvent:
            message = await receive()
            if message["type"] == "websocket.receive":
                data = message.get("bytes") or (message.get("text") or "").encode()
                if len(data) > self.limit:
                    await send({"type": "websocket.close", "code": MESSAGE_TOO_BIG, "reason": None})
                    return {"type": "websocket.disconnect", "code": MESSAGE_TOO_BIG, "reason": None}
            return message

        await self.app(scope, receive_limited, send)
