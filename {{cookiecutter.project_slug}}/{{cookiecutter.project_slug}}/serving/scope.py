"""What is set right in a scope before the application sees it."""

from .handler import ASGIApplication, Receive, Scope, Send


class ScopeMiddleware:
    """Joins cookies, adds the path below which the site is, and refuses targets that are no path.

    - Over HTTP/2 browsers send a header for each cookie, which Django would join with commas:
      https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
    - `root_path`, such as `/app`, or "". A path that lacks it gets it: health checks ask the server
      itself, and some proxies take it off.
    - A target such as `@evil.example/` gets 400. Some servers pass it on, and Django would redirect
      to `https://example.com@evil.example/`.
    """

    def __init__(self, app: ASGIApplication, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not scope["path"].startswith("/"):
            await refuse(scope, send)
        else:
            await self.app(self.with_root_path(with_one_cookie_header(scope)), receive, send)

    def with_root_path(self, scope: Scope) -> Scope:
        if not self.root_path:
            return scope
        path = scope["path"]
        if not f"{path}/".startswith(f"{self.root_path}/"):
            path = self.root_path + path
        return {**scope, "root_path": self.root_path, "path": path}


def with_one_cookie_header(scope: Scope) -> Scope:
    cookies = [value for name, value in scope["headers"] if name == b"cookie"]
    if len(cookies) < 2:
        return scope
    others = [header for header in scope["headers"] if header[0] != b"cookie"]
    return {**scope, "headers": [*others, (b"cookie", b"; ".join(cookies))]}


async def refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        body = b"The request target is not a path.\n"
        await send({"type": "http.response.body", "body": body})
