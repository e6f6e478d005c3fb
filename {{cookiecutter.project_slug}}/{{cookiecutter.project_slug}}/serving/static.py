"""Static files, served in front of Django: no middleware runs for them."""

import asyncio
import logging
from collections.abc import MutableMapping

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from servestatic import ServeStaticASGI

logger = logging.getLogger(__name__)

# More is read and sent in steps, so that a slow client costs no more memory than this, in bytes.
CHUNK = 64 * 1024


def serve_static_files(application):
    """In debug mode files come from the apps' folders, else as `collectstatic` left them."""
    if settings.DEBUG:
        return ASGIStaticFilesHandler(application)
    if not settings.STATIC_ROOT.is_dir():
        logger.warning("There is no %s yet: run `manage.py collectstatic`.", settings.STATIC_ROOT)
        return application
    return StaticFiles(
        application,
        root=settings.STATIC_ROOT,
        prefix=settings.STATIC_URL,
        allow_all_origins=False,
        add_headers_function=add_security_headers,
    )


def add_security_headers(headers: MutableMapping[str, str], path: str, url: str) -> None:
    """Add to a file's headers what Django's SecurityMiddleware adds to pages, as far as files need it."""
    if settings.SECURE_CONTENT_TYPE_NOSNIFF:
        headers["X-Content-Type-Options"] = "nosniff"
    if settings.SECURE_HSTS_SECONDS:
        words = [f"max-age={settings.SECURE_HSTS_SECONDS}"]
        words += ["includeSubDomains"] * settings.SECURE_HSTS_INCLUDE_SUBDOMAINS
        words += ["preload"] * settings.SECURE_HSTS_PRELOAD
        headers["Strict-Transport-Security"] = "; ".join(words)


class StaticFiles(ServeStaticASGI):
    """ServeStatic's files and headers, sent without a change of thread.

    It finds all files at start. To read the first chunk of one takes less time than the hop to a
    thread would.
    """

    async def __call__(self, scope, receive, send):
        static_file = self.files.get(scope["path"]) if scope["type"] == "http" else None
        if static_file is None:
            return await self.application(scope, receive, send)

        response = static_file.get_response(scope["method"], wsgi_headers(scope))
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers
            # Which must not be sent over HTTP.
            if scope["scheme"] == "https" or name != "Strict-Transport-Security"
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.file is None:
            await send({"type": "http.response.body"})
        else:
            with response.file as file:
                await send_file(file, receive, send)


async def send_file(file, receive, send):
    chunk = file.read(CHUNK)
    if len(chunk) == CHUNK:
        # Some servers do not say by `send` that the client left: the rest would be read for nobody.
        gone = asyncio.create_task(client_leaves(receive))
        while len(chunk) == CHUNK and not gone.done():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)  # `send` may never have waited, and others want to be served
            chunk = file.read(CHUNK)
        if not gone.cancel():
            return  # some servers would log an error: a part that is not all of the rest
    await send({"type": "http.response.body", "body": chunk})


async def client_leaves(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


def wsgi_headers(scope):
    """The request's headers under the names that ServeStatic looks for."""
    return {
        f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}": value.decode("latin-1")
        for name, value in scope["headers"]
    }
