import asyncio
import sys
import threading
import time
from pathlib import Path

import django
from django.core.handlers.asgi import ASGIRequest
from django.shortcuts import render


async def home(request):
    # A template in an async view cannot ask the database for the user, so the view does.
    return render(request, "pages/home.html", facts(request) | {"user": await request.auser()})


async def async_view(request):
    """While it waits, its thread serves other requests."""
    await asyncio.sleep(0.1)
    return render(request, "pages/home.html", facts(request) | {"user": await request.auser()})


def sync_view(request):
    """While it waits, a thread waits with it."""
    time.sleep(0.1)
    return render(request, "pages/home.html", facts(request))


def facts(request):
    # The program that was started: the server's, or manage.py for `runserver`.
    program = Path(sys.argv[0])
    return {
        "server": program.parent.name if program.stem == "__main__" else program.name,
        "protocol": "ASGI" if isinstance(request, ASGIRequest) else "WSGI",
        "thread": threading.current_thread().name,
        "django_version": django.get_version(),
        "python_version": sys.version.split()[0],
    }
