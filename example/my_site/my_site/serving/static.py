"""Static files, which are served without Django and its middleware."""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import BinaryIO

from asgiref.typing import HTTPScope
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from servestatic import ServeStaticASGI

from .asgi_types import ASGIApplication, Receive, Scope, Send

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024  # the most memory that a slow client can occupy


def serve_static_files(application: ASGIApplication) -> ASGIApplication:
    """Serve files from the apps' folders in debug mode, otherwise from STATIC_ROOT."""
    if settings.DEBUG:
        # django-stubs expects Django's own handler, but this one wraps any ASGI application.
        return ASGIStaticFilesHandler(application)  # type: ignore[arg-type, return-value]
    if not settings.STATIC_ROOT.is_dir():
        logger.warning("%s does not exist: run `manage.py collectstatic`.", settings.STATIC_ROOT)
        return application
    return StaticFilesMiddleware(
        application,
        root=settings.STATIC_ROOT,
        prefix=settings.STATIC_URL,
        allow_all_origins=False,
        add_headers_function=add_security_headers,
    )


def add_security_headers(headers: MutableMapping[str, str], path: str, url: str) -> None:
    """Add the headers of Django's SecurityMiddleware that files need, too."""
    if settings.SECURE_CONTENT_TYPE_NOSNIFF:
        headers["X-Content-Type-Options"] = "nosniff"
    if settings.SECURE_HSTS_SECONDS:
        words = [f"max-age={settings.SECURE_HSTS_SECONDS}"]
        words += ["includeSubDomains"] * settings.SECURE_HSTS_INCLUDE_SUBDOMAINS
        words += ["preload"] * settings.SECURE_HSTS_PRELOAD
        headers["Strict-Transport-Security"] = "; ".join(words)


class StaticFilesMiddleware(ServeStaticASGI):
    """Sends ServeStatic's files and headers from the event loop's thread.

    ServeStatic finds all files at startup, and reading a chunk takes less time than switching
    threads would.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (static_file := self.files.get(scope["path"])) is None:
            await self.application(scope, receive, send)
            return

        response = static_file.get_response(scope["method"], wsgi_headers(scope))
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers
            # This header must not be sent over HTTP.
            if scope["scheme"] == "https" or name != "Strict-Transport-Security"
        ]
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": headers,
                "trailers": False,
            }
        )
        if response.file is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            with response.file as file:
                await send_file(file, receive, send)


async def send_file(file: BinaryIO, receive: Receive, send: Send) -> None:
    chunk = file.read(CHUNK_BYTES)
    if len(chunk) == CHUNK_BYTES:
        # On some servers, `send` does not fail after the client has disconnected.
        disconnected = asyncio.create_task(wait_for_disconnect(receive))
        while len(chunk) == CHUNK_BYTES and not disconnected.done():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)  # let other tasks run, since `send` may not have waited
            chunk = file.read(CHUNK_BYTES)
        if not disconnected.cancel():
            return  # if an incomplete body were sent, some servers would log an error
    await send({"type": "http.response.body", "body": chunk, "more_body": False})


async def wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def wsgi_headers(scope: HTTPScope) -> dict[str, str]:
    """Return the request's headers under the names that ServeStatic looks for."""
    return {
        f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
        for name, value in scope["headers"]
    }
