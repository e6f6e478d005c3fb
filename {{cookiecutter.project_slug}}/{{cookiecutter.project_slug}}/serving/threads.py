"""A limited number of threads that run the synchronous code of the whole process.

Django's own ASGI handler starts a thread for every request, and with it a database connection. Here
the calls of a request run in one thread of a pool, so that threads and their connections are
reused. Calls that run after their request, or without a request, never use the pool: see
`BackgroundThreads`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import Any, cast
from urllib.parse import quote

from asgiref.sync import ThreadSensitiveContext
from django.db import connections

from .asgi_types import ASGIApplication, Receive, Scope, Send
from .conf import get_setting
from .database import (
    call_with_clean_connections,
    close_idle_connections,
    prepare_connections,
    reset_connections,
)

LONG_WAIT_SECONDS = 1
WARNING_INTERVAL_SECONDS = 60
# The pool warns if more streams than this hold a thread each.
MAX_STREAMS_WITHOUT_WARNING = 5

logger = logging.getLogger(__name__)

Call = Callable[[], object]


class RequestThread:
    """The thread of one request, in which all its synchronous calls run sequentially.

    The first call takes the thread from the pool, and `release` returns it. Calls after that run in
    background threads.
    """

    def __init__(self, pool: "ThreadPool", description: str) -> None:
        self.pool = pool
        self.description = description
        self.loop = asyncio.get_running_loop()
        self.calls: SimpleQueue[Call | None] = SimpleQueue()
        self.has_thread = False
        self.released = False
        # True while the thread runs a sync view, which may be waiting for another call.
        self.runs_view = False
        self.is_streaming = False
        self.lock = Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> asyncio.Future[Any]:
        """Schedule a call and return its future, for the event loop's `run_in_executor`.

        Other executors return a concurrent.futures.Future, which the event loop has to wrap. That
        takes longer than everything else here.
        """
        future = asyncio.get_running_loop().create_future()
        call = partial(_run_call, future, partial(function, *args))
        with self.lock:
            if self.released:
                self.pool.background.submit(call)
            elif self.runs_view or future.get_loop() is not self.loop:
                # The request's thread may be waiting for this call.
                self.pool.background.start(call)
            else:
                self.calls.put(call)
                if not self.has_thread:
                    self.has_thread = True
                    self.pool.submit(self)
        return future

    def run_calls(self) -> None:
        # Each thread has its own connections, so this thread must prepare and reset them.
        for call in chain([prepare_connections], iter(self.calls.get, None), [reset_connections]):
            try:
                call()
            except Exception:  # other requests still need the thread
                logger.exception("Could not clean up the database connections of a thread")

    def release(self) -> None:
        with self.lock:
            self.released = True
            self.calls.put(None)


# Inherited by the tasks that a request starts.
current_request_thread: ContextVar[RequestThread | None] = ContextVar(
    "current_request_thread", default=None
)


class ThreadPool:
    """Runs requests in at most ASGI_THREADS threads, in the order of their arrival.

    A request that streams its response may keep its thread for a long time. The pool then starts
    another thread to replace it.
    """

    def __init__(self) -> None:
        self.size: int = get_setting("ASGI_THREADS")
        self.background = BackgroundThreads()
        self.threads: set[Thread] = set()
        self.queue: SimpleQueue[RequestThread | None] = SimpleQueue()
        # The values are the times at which the requests were added. Changes of a dict are atomic,
        # so reads need no lock.
        self.waiting: dict[RequestThread, float] = {}
        self.running: dict[RequestThread, float] = {}
        self.streams = 0
        self.checked_at = self.warned_at = float("-inf")
        self.warned_of_streams = False
        self.lock = Lock()

    async def enter_request_context(self, description: str) -> RequestThread:
        """Let a new RequestThread run the synchronous calls of this task and its child tasks."""
        request_thread = RequestThread(self, description)
        current_request_thread.set(request_thread)
        # The context never exits, since tasks that a view started may outlive the request.
        context = ThreadSensitiveContext(executor=cast(Executor, request_thread))
        await context.__aenter__()  # type: ignore[no-untyped-call]
        return request_thread

    def submit(self, request_thread: RequestThread) -> None:
        """Let a thread of the pool run the calls of a request until it is released."""
        self.waiting[request_thread] = now = monotonic()
        if request_thread.is_streaming:
            with self.lock:
                self.streams += 1
        self._start_thread_if_needed()
        self.queue.put(request_thread)
        if now >= self.checked_at + LONG_WAIT_SECONDS:
            self.warn_if_busy()

    def mark_streaming(self, request_thread: RequestThread) -> None:
        """Let the pool start another thread in place of the one that a stream holds."""
        with self.lock:
            request_thread.is_streaming = True
            if request_thread in self.running or request_thread in self.waiting:
                self.streams += 1
            warn = self.streams > MAX_STREAMS_WITHOUT_WARNING and not self.warned_of_streams
            self.warned_of_streams |= warn
        self._start_thread_if_needed()
        if warn:
            logger.warning(
                "%d streams hold a thread each. Use EventStreamResponse, which holds none.",
                self.streams,
            )

    def warn_if_busy(self) -> None:
        """Log which requests hold the threads while others wait, at most once a minute."""
        self.checked_at = now = monotonic()
        waiting_since = [*self.waiting.values(), now]
        recently = now < self.warned_at + WARNING_INTERVAL_SECONDS
        if now < waiting_since[0] + LONG_WAIT_SECONDS or recently:
            return
        self.warned_at = now
        held = [  # quoted, since a line break in a path would forge a log line
            f"{quote(request_thread.description, safe='/ ')} for {now - since:.0f} s"
            for request_thread, since in [*self.running.items()]
        ]
        logger.warning(
            "All %d threads (ASGI_THREADS) are in use, and %d requests are waiting. In use by: %s",
            self.size,
            len(waiting_since) - 1,
            ", ".join(held),
        )

    def _start_thread_if_needed(self) -> None:
        idle = len(self.threads) - len(self.running)
        if len(self.waiting) > idle and len(self.threads) < self.size + self.streams:
            thread = Thread(target=self._work, name=f"asgi-{len(self.threads) + 1}", daemon=True)
            with self.lock:
                self.threads.add(thread)
            thread.start()

    def _work(self) -> None:
        try:
            while request_thread := self.queue.get():
                self.running[request_thread] = monotonic()
                del self.waiting[request_thread]
                request_thread.run_calls()
                if self._is_one_too_many(request_thread):
                    return
                del request_thread  # otherwise it would stay in memory while the thread waits
        finally:
            connections.close_all()

    def _is_one_too_many(self, request_thread: RequestThread) -> bool:
        """Remove the request, and return whether another thread has replaced its thread."""
        del self.running[request_thread]
        if not request_thread.is_streaming and len(self.threads) <= self.size + self.streams:
            return False
        with self.lock:
            self.streams -= request_thread.is_streaming
            if len(self.threads) <= self.size + self.streams:
                return False
            self.threads.discard(current_thread())
            return True

    def close(self, timeout_seconds: float = 1) -> None:
        """End all threads and close their connections. Wait at most this long for busy threads."""
        with self.lock:
            threads, self.threads = self.threads, set()
        for _ in threads:
            self.queue.put(None)
        deadline = monotonic() + timeout_seconds
        for thread in threads | self.background.threads:
            thread.join(max(0, deadline - monotonic()))
        close_idle_connections()


class BackgroundThreads:
    """Runs calls that do not belong to a running request.

    These are the calls of event streams, WebSockets, tasks that outlive their request, and other
    ASGI applications. Each runs in a new thread with clean connections, so that it never sees
    anything that a request or another call has left behind.
    """

    def __init__(self) -> None:
        self.free: int = get_setting("ASGI_BACKGROUND_THREADS")
        self.waiting: deque[Call] = deque()
        self.threads: set[Thread] = set()
        self.lock = Lock()

    def submit(self, call: Call) -> None:
        """Run the call in a new thread, or queue it while ASGI_BACKGROUND_THREADS are running."""
        with self.lock:
            if not self.free:
                self.waiting.append(call)
                return
            self.free -= 1
        self.start(call, self._start_next)

    def start(self, call: Call, then: Call | None = None) -> None:
        """Run the call in a new thread immediately, since another thread may be waiting for it."""
        thread = Thread(target=self._run, args=(call, then), name="asgi-background", daemon=True)
        self.threads.add(thread)
        thread.start()

    def _run(self, call: Call, then: Call | None) -> None:
        try:
            call_with_clean_connections(call)
        except Exception:  # other calls still need the slot
            logger.exception("Could not clean up the database connections of a thread")
        self.threads.discard(current_thread())
        if then:
            then()

    def _start_next(self) -> None:
        with self.lock:
            if not self.waiting:
                self.free += 1
                return
            call = self.waiting.popleft()
        self.start(call, self._start_next)


def _run_call(future: asyncio.Future[Any], call: Call) -> None:
    if not future.cancelled():
        try:
            _set_result_threadsafe(future, future.set_result, call())
        except BaseException as error:  # noqa: BLE001 (the future raises it)
            _set_result_threadsafe(future, future.set_exception, error)


def _set_result_threadsafe(
    future: asyncio.Future[Any], set_result: Callable[[Any], None], result: Any
) -> None:
    def set_unless_cancelled() -> None:
        if not future.cancelled():
            set_result(result)

    with suppress(RuntimeError):  # the loop is closed: the server did not wait for the thread
        future.get_loop().call_soon_threadsafe(set_unless_cancelled)


class BackgroundThreadsMiddleware:
    """Runs the synchronous calls of an ASGI application in the pool's background threads."""

    def __init__(self, app: ASGIApplication, pool: ThreadPool) -> None:
        self.app = app
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_thread = await self.pool.enter_request_context(scope["type"])
        request_thread.release()
        await self.app(scope, receive, send)
