"""The visitor's cookies in one header."""

from .handler import ASGIApplication, Receive, Scope, Send


class CookieHeaderMiddleware:
    """Joins the cookie headers of a request with semicolons.

    Over HTTP/2 browsers send a header for each cookie, and Django would join them with commas:
    https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            cookies = [value for name, value in scope["headers"] if name == b"cookie"]
            if len(cookies) > 1:
                others = [header for header in scope["headers"] if header[0] != b"cookie"]
                scope = {**scope, "headers": [*others, (b"cookie", b"; ".join(cookies))]}
        await self.app(scope, receive, send)
