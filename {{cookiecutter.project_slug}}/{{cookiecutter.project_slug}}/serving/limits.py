"""A limit on the size of request bodies."""

from asgiref.typing import ASGIReceiveEvent

from .asgi_types import ASGIApplication, Receive, Scope, Send


class BodyLimitMiddleware:
    """Rejects request bodies of more than `limit` bytes with 413, and does not read the rest.

    Django would read the whole body, to disk if it is large, before the view checks permissions.
    """

    def __init__(self, app: ASGIApplication, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self.limit:
            return await send_413(send)

        bytes_left = self.limit

        async def receive_limited() -> ASGIReceiveEvent:
            nonlocal bytes_left
            event = await receive()
            if event["type"] == "http.request":
                bytes_left -= len(event.get("body", b""))
            # To the application, the client has disconnected, so it sends no response.
            return event if bytes_left >= 0 else {"type": "http.disconnect"}

        await self.app(scope, receive_limited, send)
        if bytes_left < 0:
            await send_413(send)


async def send_413(send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [(b"content-type", b"text/plain"), (b"connection", b"close")],
            "trailers": False,
        }
    )
    body = b"The request body is too large.\n"
    await send({"type": "http.response.body", "body": body, "more_body": False})
