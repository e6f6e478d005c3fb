"""The settings of the ASGI core."""

from typing import Any

from django.conf import settings

DEFAULTS = {
    # Threads for the synchronous code of requests.
    "ASGI_THREADS": 10,
    # Threads besides them, for event streams, WebSockets and tasks that outlive their request.
    "ASGI_BACKGROUND_THREADS": 5,
    # For how many seconds all of them keep a database connection; None is for ever. It takes the place
    # of CONN_MAX_AGE, with which Django's own handler leaks connections.
    "ASGI_CONN_MAX_AGE": 600,
}


def get_setting(name: str) -> Any:
    return getattr(settings, name, DEFAULTS[name])
