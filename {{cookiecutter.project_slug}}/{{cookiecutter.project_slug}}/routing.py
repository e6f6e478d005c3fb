"""Which consumer answers which WebSocket path: what urls.py is for HTTP."""

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from django.urls import re_path
{% if cookiecutter.starter == "chat" %}

from chat.consumers import ChatConsumer
from chat.models import ROOM_NAME
{% endif %}

from .serving.origin import OriginMiddleware


async def not_found(scope, receive, send):
    """Refuse the handshake. Without this, an unknown path would be an error in the log."""
    await send({"type": "websocket.close"})


websocket_urlpatterns = [
{% if cookiecutter.starter == "chat" %}
    re_path(rf"^ws/chat/(?P<room>{ROOM_NAME})/$", ChatConsumer.as_asgi()),
{% endif %}
    re_path("", not_found),
]

websockets = OriginMiddleware(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))
