"""What those who run the site want to know: is it up, and how long did each request take."""

import asyncio
import logging
from time import perf_counter

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
{% if cookiecutter.__channels %}
from channels.layers import get_channel_layer
{% endif %}
from django.conf import settings
from django.db import Error, connections
from django.http import JsonResponse
from django.utils.encoding import escape_uri_path

from .handler import HEALTH_PATHS
from .logs import take_request_id
from .threads import current_request_thread

logger = logging.getLogger(__name__)


class HealthMiddleware:
    """Answers before anything else does: no session, no redirect, no check of the Host header.

    `/livez` is 200 as long as the process answers; `/readyz` is 200, or 503 with the names of what
    does not answer. Both send JSON.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request):
        if request.path_info not in HEALTH_PATHS:
            return self.get_response(request)
        return self.answer(request) if self.is_async else async_to_sync(self.answer)(request)

    async def answer(self, request):
        failing = []
        if request.path_info == "/readyz":
            failing += await failing_threads() or await sync_to_async(failing_databases)()
{% if cookiecutter.__channels %}
            failing += await failing_channel_layer()
{% endif %}
        return JsonResponse(
            {"status": "failing" if failing else "ok", "failing": failing},
            status=503 if failing else 200,
            headers={"Cache-Control": "no-store"},
        )


async def failing_threads() -> list[str]:
    """Wait a second for a thread, and keep it for the rest of the request."""
    try:
        async with asyncio.timeout(1):
            await sync_to_async(bool)()
    except TimeoutError:
        if request_thread := current_request_thread.get():
            request_thread.pool.warn_if_busy()
        return ["threads"]
    return []


def failing_databases():
    failing = []
    for connection in connections.all():
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            logger.warning("Database %r does not answer: %s", connection.alias, error)
            failing.append(f"database {connection.alias}")
    return failing
{% if cookiecutter.__channels %}


async def failing_channel_layer():
    try:
        async with asyncio.timeout(2):
            # To a group without members, so that nothing is left that somebody would have to fetch.
            await get_channel_layer().group_send("readyz", {"type": "readyz"})
    except Exception as error:  # noqa: BLE001 (whatever it is, the layer cannot be used)
        logger.warning("The channel layer does not answer: %r", error)
        return ["channel layer"]
    return []
{% endif %}


class TimingMiddleware:
    """Logs a line per request, with its duration: of a stream, until the stream starts.

    Adds the header `X-Request-ID`, and with SERVER_TIMING the header `Server-Timing`, in milliseconds.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request):
        if self.is_async:
            return self.__acall__(request)
        start = self.begin(request)
        return self.record(request, self.get_response(request), start)

    async def __acall__(self, request):
        start = self.begin(request)
        return self.record(request, await self.get_response(request), start)

    @staticmethod
    def begin(request):
        request.id = take_request_id(request.META.get("HTTP_X_REQUEST_ID", ""))
        return perf_counter()

    @staticmethod
    def record(request, response, start):
        duration = round((perf_counter() - start) * 1000, 1)
        if settings.SERVER_TIMING:
            others = response.headers.get("Server-Timing")
            timing = f"app;dur={duration}"
            response.headers["Server-Timing"] = f"{others}, {timing}" if others else timing
        response.headers["X-Request-ID"] = request.id
        path = escape_uri_path(request.path)  # a line break in it would start a log line of its own
        facts = {
            "method": request.method,
            "path": path,
            "status": response.status_code,
            "duration_ms": duration,
        }
        logger.info("%s %s %s %s ms", *facts.values(), extra=facts)
        return response
