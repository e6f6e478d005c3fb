"""Health checks, and the access log with the duration of each request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.db import Error, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.encoding import escape_uri_path

from .handler import HEALTH_PATHS
from .logs import take_request_id
from .threads import current_request_thread

logger = logging.getLogger(__name__)

# An async function for async views, else a sync one.
GetResponse = Callable[[HttpRequest], Any]


class HealthMiddleware:
    """Responds before any other middleware runs: no session, no redirect, no check of the Host header.

    `/livez` is 200 as long as the process responds; `/readyz` is 200, or 503 with the names of what
    fails. Both send JSON.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if request.path_info not in HEALTH_PATHS:
            return self.get_response(request)  # type: ignore[no-any-return]
        return self.respond(request) if self.is_async else async_to_sync(self.respond)(request)

    async def respond(self, request: HttpRequest) -> HttpResponse:
        failing: list[str] = []
        if request.path_info == "/readyz":
            failing = await failing_threads() or await sync_to_async(failing_databases)()
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


def failing_databases() -> list[str]:
    failing = []
    for connection in connections.all():
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Error as error:
            logger.warning("Database %r does not answer: %s", connection.alias, error)
            failing.append(f"database {connection.alias}")
    return failing


class TimingMiddleware:
    """Logs each request with its duration, which of a stream is the time until it starts.

    Adds the header `X-Request-ID`, and with SERVER_TIMING the header `Server-Timing`, in milliseconds.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if self.is_async:
            return self.__acall__(request)
        start = self.begin(request)
        return self.record(request, self.get_response(request), start)

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        start = self.begin(request)
        return self.record(request, await self.get_response(request), start)

    @staticmethod
    def begin(request: HttpRequest) -> float:
        request.id = take_request_id(request.META.get("HTTP_X_REQUEST_ID", ""))  # type: ignore[attr-defined]
        return perf_counter()

    @staticmethod
    def record(request: HttpRequest, response: HttpResponse, start: float) -> HttpResponse:
        duration = round((perf_counter() - start) * 1000, 1)
        if settings.SERVER_TIMING:
            existing = response.headers.get("Server-Timing")
            timing = f"app;dur={duration}"
            response.headers["Server-Timing"] = f"{existing}, {timing}" if existing else timing
        response.headers["X-Request-ID"] = request.id  # type: ignore[attr-defined]
        path = escape_uri_path(request.path)  # a line break would forge a log line
        fields = {
            "method": request.method,
            "path": path,
            "status": response.status_code,
            "duration_ms": duration,
        }
        logger.info("%s %s %s %s ms", *fields.values(), extra=fields)
        return response
