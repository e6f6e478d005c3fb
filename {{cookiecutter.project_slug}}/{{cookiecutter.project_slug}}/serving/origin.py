"""A check that only pages from allowed origins can open WebSockets."""

from io import BytesIO

from asgiref.typing import WebSocketScope
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from .asgi_types import ASGIApplication, Receive, Scope, Send


class OriginMiddleware:
    """Rejects a WebSocket whose Origin would not pass Django's CSRF check.

    The Origin must be the site's own scheme, host and port, or one of CSRF_TRUSTED_ORIGINS.
    Otherwise a page of any site could open a WebSocket with the cookies of its visitor.
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.app = app
        self.csrf = CsrfViewMiddleware(lambda request: HttpResponse())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or self.is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000, "reason": None})

    def is_allowed(self, scope: WebSocketScope) -> bool:
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        as_http = {**scope, "type": "http", "method": "GET", "scheme": scheme}
        request = ASGIRequest(as_http, BytesIO())
        try:
            request.get_host()
        except DisallowedHost:
            return False
        if "HTTP_ORIGIN" not in request.META:
            return False
        # This method is not in Django's documentation.
        return bool(self.csrf._origin_verified(request))  # type: ignore[attr-defined]
