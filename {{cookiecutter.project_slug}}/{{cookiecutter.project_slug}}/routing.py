"""The URL patterns of WebSocket consumers. Those of views are in urls.py."""

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
{% if cookiecutter.starter == "game" %}
from django.urls import path, re_path
{% else %}
from django.urls import re_path
{% endif %}
{% if cookiecutter.starter == "chat" %}

from chat.consumers import ChatConsumer
from chat.models import ROOM_NAME
{% endif %}
{% if cookiecutter.starter == "game" %}

from game.consumers import LobbyConsumer, TableConsumer
{% endif %}

from .serving.asgi_types import Receive, Scope, Send
from .serving.origin import OriginMiddleware


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Reject the handshake. Without this, an unknown path would log an error."""
    await send({"type": "websocket.close", "code": 1000, "reason": None})


websocket_urlpatterns = [
{% if cookiecutter.starter == "chat" %}
    re_path(rf"^ws/chat/(?P<room>{ROOM_NAME})/$", ChatConsumer.as_asgi()),
{% endif %}
{% if cookiecutter.starter == "game" %}
    path("ws/lobby/", LobbyConsumer.as_asgi()),
    path("ws/tables/<uuid:id>/", TableConsumer.as_asgi()),
{% endif %}
    re_path("", not_found),  # type: ignore[arg-type]  # an application, not a view
]

websockets = OriginMiddleware(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))
