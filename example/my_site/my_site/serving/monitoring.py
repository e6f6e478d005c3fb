"""Health checks, and the access log with the duration of each request."""

import asyncio
import atexit
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from threading import Event, Lock, Thread
from time import perf_counter, sleep, time
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.db import Error, connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.utils.encoding import escape_uri_path

from .handler import HEALTH_PATHS, server_stopped
from .logs import take_request_id
from .middleware import AsyncMiddlewareMixin
from .threads import current_request_thread

ACCESS_LOG_INTERVAL_SECONDS = 0.05
ACCESS_LOG_FORMAT = "%s %s %s %s ms"
MAX_WAITING_LINES = 10_000

logger = logging.getLogger(__name__)

# An async function on the event loop, otherwise a sync one.
GetResponse = Callable[[HttpRequest], Any]


class HealthMiddleware:
    """Responds to health checks before other middleware uses sessions, redirects or checks hosts.

    `/livez` responds with 200 while the process runs. `/readyz` responds with 200, or with 503 and
    the names of the failing parts. Both send JSON.
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
    """Return ["threads"] if no thread is free within a second. Otherwise the request keeps one."""
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
            logger.warning("Database %r does not respond: %s", connection.alias, error)
            failing.append(f"database {connection.alias}")
    return failing


class AccessLog:
    """Logs requests in batches from a thread.

    Logging each request immediately takes a tenth of the time of a short request. Other loggers
    write immediately, so their lines come before the request's line in the access log. A process
    that is killed loses the lines of its last ACCESS_LOG_INTERVAL_SECONDS. A process that exits
    normally writes all lines.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, Context, dict[str, Any]]] = deque()
        self.has_waiting = Event()
        self.thread: Thread | None = None
        self.lock = Lock()
        # Some servers kill themselves with a signal, so atexit does not run.
        server_stopped.connect(self.flush)
        atexit.register(self.flush)

    def add(self, **fields: Any) -> None:
        """Log a request with these fields, which become attributes of its log record."""
        self.waiting.append((time(), copy_context(), fields))
        # In development, write each line immediately, in order with the output of `print`.
        if settings.DEBUG or len(self.waiting) > MAX_WAITING_LINES:
            self.flush()
        elif not self.has_waiting.is_set():
            self.has_waiting.set()
            if self.thread is None or not self.thread.is_alive():
                self.start_thread()

    def flush(self, **_: Any) -> None:
        """Log the waiting requests."""
        self.has_waiting.clear()
        with self.lock:
            while self.waiting:
                created, context, fields = self.waiting.popleft()
                # The request's context contains its id, and a tracer's ids.
                context.run(self._log, created, fields)

    def start_thread(self) -> None:
        with self.lock:
            if self.thread is None or not self.thread.is_alive():
                self.thread = Thread(target=self._work, name="access-log", daemon=True)
                self.thread.start()

    def _work(self) -> None:
        while self.has_waiting.wait():
            sleep(ACCESS_LOG_INTERVAL_SECONDS)
            self.flush()

    def _log(self, created: float, fields: dict[str, Any]) -> None:
        args = (ACCESS_LOG_FORMAT, tuple(fields.values()), None)
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, *args, extra=fields)
        record.created, record.msecs = created, created % 1 * 1000
        logger.handle(record)


access_log = AccessLog()


class TimingMiddleware(AsyncMiddlewareMixin, MiddlewareMixin):
    """Logs each request with its duration, which for a stream is the time until it starts.

    Adds the header `X-Request-ID`. With SERVER_TIMING, it also adds the header `Server-Timing` with
    the duration in milliseconds.
    """

    def process_request(self, request: HttpRequest) -> None:
        request.id = take_request_id(request.META.get("HTTP_X_REQUEST_ID", ""))  # type: ignore[attr-defined]
        request.started_at = perf_counter()  # type: ignore[attr-defined]

    def process_response(self, request: Any, response: HttpResponseBase) -> HttpResponseBase:
        duration = round((perf_counter() - request.started_at) * 1000, 1)
        if settings.SERVER_TIMING:
            existing = response.headers.get("Server-Timing")
            timing = f"app;dur={duration}"
            response.headers["Server-Timing"] = f"{existing}, {timing}" if existing else timing
        response.headers["X-Request-ID"] = request.id
        if logger.isEnabledFor(logging.INFO):
            access_log.add(
                method=request.method,
                path=escape_uri_path(request.path),  # a line break would forge a log line
                status=response.status_code,
                duration_ms=duration,
            )
        return response
