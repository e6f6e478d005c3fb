"""The settings of the ASGI core."""

from typing import Any

from django.conf import settings

DEFAULTS = {
    # Number of threads for the synchronous code of requests.
    "ASGI_THREADS": 10,
    # Number of additional threads for event streams, WebSockets and tasks that outlive their
    # request.
    "ASGI_BACKGROUND_THREADS": 5,
    # Lifetime of the threads' database connections in seconds; None is unlimited. Replaces
    # CONN_MAX_AGE, which makes Django's own handler leak connections.
    "ASGI_CONN_MAX_AGE": 600,
}


def get_setting(name: str) -> Any:
    return getattr(settings, name, DEFAULTS[name])
