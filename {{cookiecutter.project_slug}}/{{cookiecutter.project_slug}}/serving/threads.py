"""The threads that run synchronous code: a bounded number for the whole process.

Django's own ASGI handler starts a thread for every request, and with it a database connection. Here
the calls of a request run in one thread of a pool, so that threads and their connections are reused.
What runs after its request, or without one, never runs in such a thread: see `BackgroundThreads`.
"""

import asyncio
import atexit
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import Any
from urllib.parse import quote

from asgiref.sync import ThreadSensitiveContext
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from django.conf import settings
from django.db import connections

from .database import (
    call_with_clean_connections,
    close_idle_connections,
    prepare_connections,
    reset_connections,
)
from .deferred_calls import wait_for_deferred_calls

LONG_WAIT_SECONDS = 1
WARNING_INTERVAL_SECONDS = 60
# More streams than this that hold a thread each are worth a warning.
MAX_STREAMS_WITHOUT_WARNING = 5

logger = logging.getLogger(__name__)

Call = Callable[[], object]


class RequestExecutor(Executor):
    """The executor of one request, for `ThreadSensitiveContext`: one thread for all its calls.

    It takes the thread from the pool at the first call and keeps it until `release`. Calls that are
    made later run in background threads.
    """

    def __init__(self, pool: "ThreadPool", description: str) -> None:
        self.pool = pool
        self.description = description
        self.loop = asyncio.get_running_loop()
        self.calls: SimpleQueue[Call | None] = SimpleQueue()
        self.has_thread = False
        self.released = False
        # While the thread runs a sync view, which may be waiting for the call.
        self.runs_view = False
        self.is_streaming = False
        self.lock = Lock()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Schedule a call and return its asyncio future.

        `run_in_executor` would wrap one of concurrent.futures, which takes longer than all the rest.
        """
        future = asyncio.get_running_loop().create_future()
        call = partial(_run_call, future, partial(function, *args, **kwargs))
        with self.lock:
            if self.released:
                background_threads.submit(call)
            elif self.runs_view or future.get_loop() is not self.loop:
                # The request's thread may be waiting for this very call.
                background_threads.start(call)
            else:
                if not self.has_thread:
                    self.has_thread = True
                    self.pool.submit(self)
                self.calls.put(call)
        return future

    def run_calls(self) -> None:
        # What Django does before and after each request is for one thread, and so it is done here.
        for call in chain([prepare_connections], iter(self.calls.get, None), [reset_connections]):
            try:
                call()
            except Exception:  # others still need the thread
                logger.exception("Could not clean up the database connections of a thread")

    def release(self) -> None:
        with self.lock:
            self.released = True
            self.calls.put(None)


class ThreadPool:
    """At most `size` threads, which run requests in the order in which they come.

    A request that streams its response may keep its thread for long: the pool then starts another
    one in its place.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.threads: set[Thread] = set()
        self.queue: SimpleQueue[RequestExecutor | None] = SimpleQueue()
        # Both with the time since when. Each change of a dict is atomic, so that they need no lock.
        self.waiting: dict[RequestExecutor, float] = {}
        self.running: dict[RequestExecutor, float] = {}
        self.streams = 0
        self.checked_at = self.warned_at = float("-inf")
        self.warned_of_streams = False
        self.lock = Lock()

    def submit(self, executor: RequestExecutor) -> None:
        """Let a thread run the executor's calls until it is released."""
        self.waiting[executor] = now = monotonic()
        if executor.is_streaming:
            with self.lock:
                self.streams += 1
        self._start_thread_if_needed()
        self.queue.put(executor)
        if now >= self.checked_at + LONG_WAIT_SECONDS:
            self.warn_if_busy()

    def mark_streaming(self, executor: RequestExecutor) -> None:
        """Let another thread start in the place of the one that a stream keeps."""
        with self.lock:
            executor.is_streaming = True
            if executor in self.running or executor in self.waiting:
                self.streams += 1
            warn = self.streams > MAX_STREAMS_WITHOUT_WARNING and not self.warned_of_streams
            self.warned_of_streams |= warn
        self._start_thread_if_needed()
        if warn:
            logger.warning(
                "%d streams hold a thread each. An EventStreamResponse holds none.", self.streams
            )

    def warn_if_busy(self) -> None:
        """Log, at most once a minute, what holds all threads while others wait for one."""
        self.checked_at = now = monotonic()
        waiting_since = [*self.waiting.values(), now]
        recently = now < self.warned_at + WARNING_INTERVAL_SECONDS
        if now < waiting_since[0] + LONG_WAIT_SECONDS or recently:
            return
        self.warned_at = now
        held = [  # quoted: a line break in a path would start a log line of its own
            f"{quote(executor.description, safe='/ ')} for {now - since:.0f} s"
            for executor, since in [*self.running.items()]
        ]
        logger.warning(
            "All %d threads (ASGI_THREADS) are in use, and %d requests wait for one. In use by: %s",
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
            while executor := self.queue.get():
                self.running[executor] = monotonic()
                del self.waiting[executor]
                executor.run_calls()
                if self._is_one_too_many(executor):
                    return
                del executor  # or it would be kept while the thread waits
        finally:
            connections.close_all()

    def _is_one_too_many(self, executor: RequestExecutor) -> bool:
        """Note that the current thread has finished; return whether it is to end, after a stream."""
        del self.running[executor]
        if not executor.is_streaming and len(self.threads) <= self.size + self.streams:
            return False
        with self.lock:
            self.streams -= executor.is_streaming
            if len(self.threads) <= self.size + self.streams:
                return False
            self.threads.discard(current_thread())
            return True

    def close(self) -> set[Thread]:
        """Let the threads end when they have nothing to do; return them."""
        with self.lock:
            threads, self.threads = self.threads, set()
        for _ in threads:
            self.queue.put(None)
        return threads


class BackgroundThreads:
    """Runs calls that do not belong to a running request.

    These are the calls of event streams, WebSockets, tasks that outlive their request, and other ASGI
    applications. Each has a new thread and clean connections, so that it never finds what a request,
    or another such call, has left behind.
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self.waiting: deque[Call] = deque()
        self.threads: set[Thread] = set()
        self.lock = Lock()

    def submit(self, call: Call) -> None:
        """Run the call in a new thread, as soon as fewer than `size` such calls run."""
        with self.lock:
            if not self.free:
                self.waiting.append(call)
                return
            self.free -= 1
        self.start(call, self._start_next)

    def start(self, call: Call, then: Call | None = None) -> None:
        """Run the call in a new thread now: one for which another thread waits could wait for ever."""
        thread = Thread(target=self._run, args=(call, then), name="asgi-background", daemon=True)
        self.threads.add(thread)
        thread.start()

    def _run(self, call: Call, then: Call | None) -> None:
        try:
            call_with_clean_connections(call)
        except Exception:  # others still need the place
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
        except BaseException as error:  # noqa: BLE001 (whoever awaits the future gets it)
            _set_result_threadsafe(future, future.set_exception, error)


def _set_result_threadsafe(
    future: asyncio.Future[Any], set_result: Callable[[Any], None], result: Any
) -> None:
    def set_unless_cancelled() -> None:
        if not future.cancelled():
            set_result(result)

    with suppress(RuntimeError):  # the loop is closed: the server did not wait for the thread
        future.get_loop().call_soon_threadsafe(set_unless_cancelled)


async def enter_request_context(description: str) -> RequestExecutor:
    """Send the synchronous calls of the current task, and of those it starts, to a new executor."""
    executor = RequestExecutor(pool, description)
    # Entered and never left: tasks that a view started may outlive the request and need threads.
    await ThreadSensitiveContext(executor=executor).__aenter__()
    return executor


class BackgroundThreadsMiddleware:
    """Runs the synchronous calls of an ASGI application in background threads."""

    def __init__(self, app: ASGI3Application) -> None:
        self.app = app

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        executor = await enter_request_context(scope["type"])
        executor.release()
        await self.app(scope, receive, send)


pool = ThreadPool(settings.ASGI_THREADS)
background_threads = BackgroundThreads(settings.ASGI_BACKGROUND_THREADS)


@atexit.register  # for servers that do not say at a stop that they do
def close(timeout_seconds: float = 1) -> None:
    """End all threads and close their connections; wait only so long for those at work."""
    wait_for_deferred_calls()
    deadline = monotonic() + timeout_seconds
    for thread in pool.close() | background_threads.threads:
        thread.join(max(0, deadline - monotonic()))
    close_idle_connections()
