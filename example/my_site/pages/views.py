import asyncio
import sys
import threading
import time
from pathlib import Path

import django
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


async def home(request: HttpRequest) -> HttpResponse:
    # A template rendered in an async view cannot load the user from the database.
    context = get_context(request) | {"user": await request.auser()}
    return render(request, "pages/home.html", context)


async def async_view(request: HttpRequest) -> HttpResponse:
    """Wait on the event loop, which handles other requests meanwhile."""
    await asyncio.sleep(0.1)
    context = get_context(request) | {"user": await request.auser()}
    return render(request, "pages/home.html", context)


def sync_view(request: HttpRequest) -> HttpResponse:
    """Wait in a thread, which handles no other request meanwhile."""
    time.sleep(0.1)
    return render(request, "pages/home.html", get_context(request))


def get_context(request: HttpRequest) -> dict[str, str]:
    # The server's executable, or manage.py for `runserver`.
    program = Path(sys.argv[0])
    return {
        "server": program.parent.name if program.stem == "__main__" else program.name,
        "protocol": "ASGI" if isinstance(request, ASGIRequest) else "WSGI",
        "thread": threading.current_thread().name,
        "django_version": django.get_version(),
        "python_version": sys.version.split()[0],
    }
