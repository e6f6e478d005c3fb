"""Lets an application close a WebSocket at any time.

By itself granian sends the close only when the application no longer waits for a message, so that a
client that is silent would stay connected.
"""

import asyncio

from asgiref.typing import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
    WebSocketDisconnectEvent,
)


class CloseMiddleware:
    def __init__(self, app: ASGI3Application) -> None:
        self.app = app

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
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
            await send(event)
            closed.set()

        await self.app(scope, receive_until_closed, send_after_interruption)
