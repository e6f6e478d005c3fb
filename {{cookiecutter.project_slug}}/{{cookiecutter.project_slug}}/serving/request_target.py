"""What a client may ask for: a path."""

from .handler import ASGIApplication, Receive, Scope, Send


class RequestTargetMiddleware:
    """Refuses a request target that is not a path, such as `@evil.example/`, with 400.

    Some servers pass it on, and Django would redirect to `https://example.com@evil.example/`.
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"].startswith("/"):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            body = b"The request target is not a path.\n"
            await send({"type": "http.response.body", "body": body})
