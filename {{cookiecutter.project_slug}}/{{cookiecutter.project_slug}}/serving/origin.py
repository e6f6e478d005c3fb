"""Whose pages may open a WebSocket."""

from io import BytesIO

from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from .handler import ASGIApplication, Receive, Scope, Send


class OriginMiddleware:
    """Refuses a WebSocket whose Origin would not pass Django's CSRF check.

    It has to be the site's own scheme, host and port, or one of CSRF_TRUSTED_ORIGINS. Else any site's
    page could speak as its visitor.
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.app = app
        self.csrf = CsrfViewMiddleware(lambda request: HttpResponse())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    def is_allowed(self, scope: Scope) -> bool:
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        as_http = {**scope, "type": "http", "method": "GET", "scheme": scheme}
        request = ASGIRequest(as_http, BytesIO())
        try:
            request.get_host()
        except DisallowedHost:
            return False
        if "HTTP_ORIGIN" not in request.META:
            return False
        # Not in Django's documentation: this method.
        return self.csrf._origin_verified(request)  # type: ignore[attr-defined]
