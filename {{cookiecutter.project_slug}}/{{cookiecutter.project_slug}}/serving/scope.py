"""What is set right in a scope before Django and Channels see it."""

from .handler import ASGIApplication, Receive, Scope, Send


class RequestTargetMiddleware:
    """Refuses a request target that is not a path, such as `@evil.example/`, with 400.

    Some servers pass it on, and Django would redirect to `https://example.com@evil.example/`.

    `root_path`: the path below which the site is, such as `/app`, or "". A path that lacks it gets
    it: health checks ask the server itself, and some proxies take it off.
    """

    def __init__(self, app: ASGIApplication, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["path"].startswith("/"):
            path = scope["path"]
            if not f"{path}/".startswith(f"{self.root_path}/"):
                path = self.root_path + path
            await self.app({**scope, "root_path": self.root_path, "path": path}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            body = b"The request target is not a path.\n"
            await send({"type": "http.response.body", "body": body})


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
