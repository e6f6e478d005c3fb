"""Corrections to the scope before Django reads it."""

from asgiref.typing import WWWScope

from .asgi_types import ASGIApplication, Receive, Scope, Send


class ScopeMiddleware:
    """Joins cookie headers, adds the root path, and rejects request targets that are not paths.

    - Over HTTP/2, browsers send one header per cookie, which Django would join with commas:
      https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3
    - `root_path` is the path below which the site is served, such as `/app`, or "". It is added to
      paths without it: health checks connect directly to the server, and some proxies strip it.
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
            await reject_target(scope, send)
        else:
            await self.app(self.add_root_path(join_cookie_headers(scope)), receive, send)

    def add_root_path(self, scope: WWWScope) -> WWWScope:
        if not self.root_path:
            return scope
        scope = scope.copy()
        scope["root_path"] = self.root_path
        if not f"{scope['path']}/".startswith(f"{self.root_path}/"):
            scope["path"] = self.root_path + scope["path"]
        return scope


def join_cookie_headers(scope: WWWScope) -> WWWScope:
    cookies = [value for name, value in scope["headers"] if name == b"cookie"]
    if len(cookies) < 2:
        return scope
    scope = scope.copy()
    others = [header for header in scope["headers"] if header[0] != b"cookie"]
    scope["headers"] = [*others, (b"cookie", b"; ".join(cookies))]
    return scope


async def reject_target(scope: WWWScope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": None})
        return
    await send(
        {
            "type": "http.response.start",
            "status": 400,
            "headers": [(b"content-type", b"text/plain")],
            "trailers": False,
        }
    )
    body = b"The request target is not a path.\n"
    await send({"type": "http.response.body", "body": body, "more_body": False})
