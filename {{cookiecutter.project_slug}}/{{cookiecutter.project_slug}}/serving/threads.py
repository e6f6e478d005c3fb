"""The threads that synchronous code runs in: a fixed number for the whole process.

Django's own ASGI handler starts a thread for every request, and with it a database connection. Here
a request borrows one when it first needs it, so that threads and their connections are used again.
"""

import asyncio
import atexit
import logging
{% if cookiecutter.database == "postgresql" %}
import selectors
{% endif %}
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings

{% if cookiecutter.database == "postgresql" %}
# Not in Django's documentation: `in_atomic_block` and `health_check_done` of a connection.
{% else %}
# Not in Django's documentation: `in_atomic_block` of a connection.
{% endif %}
from django.db import close_old_connections, connections, reset_queries

logger = logging.getLogger(__name__)


class ThreadPool:
    """At most `size` threads, which make the calls of requests in the order in which they were put."""

    def __init__(self, size):
        self.size = size
        self.requests = SimpleQueue()
        self.threads = []

    def put(self, calls):
        if len(self.threads) < self.size:
            thread = Thread(target=self.work, name=f"asgi-{len(self.threads) + 1}", daemon=True)
            thread.start()
            self.threads.append(thread)
        self.requests.put(calls)

    def work(self):
        for calls in iter(self.requests.get, None):
            # What Django does before and after each request is for one thread, and so it is done here.
            for call in chain([before_request], calls, [after_request]):
                try:
                    call()
                except Exception:  # others still need the thread
                    logger.exception("A thread could not be cleaned up")
        connections.close_all()

    def close(self, timeout=1):
        """End the threads and close their connections; wait at most `timeout` seconds for those at work."""
        threads, self.threads = self.threads, []
        end = monotonic() + timeout
        for _ in threads:
            self.requests.put(None)
        for thread in threads:
            thread.join(max(0, end - monotonic()))


class Loan(Executor):
    """The executor of one request, for `ThreadSensitiveContext`: one thread for all its calls.

    It takes the thread at the first call. After `close` each call has a thread for itself alone: that
    is how a stream, a WebSocket or a task that outlives its request holds none while it waits.
    """

    def __init__(self):
        self.calls = SimpleQueue()
        self.has_thread = False
        self.closed = False
        self.lock = Lock()

    def submit(self, function, /, *args):
        # A future of asyncio, which `run_in_executor` takes as it is: one of concurrent.futures it would
        # join to one of asyncio, and that takes longer than all the rest.
        future = asyncio.get_running_loop().create_future()
        call = partial(run, future, partial(function, *args))
        with self.lock:
            if self.closed:
                pool.put(iter([call]))  # not the list, which would keep it while the thread waits
            else:
                if not self.has_thread:
                    pool.put(iter(self.calls.get, None))
                    self.has_thread = True
                self.calls.put(call)
        return future

    def close(self):
        with self.lock:
            self.closed = True
            self.calls.put(None)


def run(future, call):
    if not future.cancelled():
        try:
            settle(future, future.set_result, call())
        except BaseException as error:  # noqa: BLE001 (whoever awaits the future gets it)
            settle(future, future.set_exception, error)


def settle(future, how, outcome):
    with suppress(RuntimeError):  # the loop is closed: the server did not wait for the thread
        future.get_loop().call_soon_threadsafe(lambda: future.cancelled() or how(outcome))


def before_request():
    reset_queries()
    close_old_connections()
{% if cookiecutter.database == "postgresql" %}
    for connection in connections.all(initialized_only=True):
        # Django would ask PostgreSQL in each request whether the connection is still good: a round trip.
        if connection.vendor == "postgresql" and connection.connection is not None:
            connection.health_check_done = not has_input(connection.connection)
{% endif %}


def after_request():
    for connection in connections.all(initialized_only=True):
        # A transaction that was left open, in SQL perhaps: the next request must not be part of it.
{% if cookiecutter.database == "postgresql" %}
        raw = getattr(connection.connection, "pgconn", None)
        if connection.in_atomic_block or (raw and raw.transaction_status):
{% else %}
        if connection.in_atomic_block or getattr(connection.connection, "in_transaction", False):
{% endif %}
            del connections[connection.alias]
            connection.close()
    close_old_connections()


{% if cookiecutter.database == "postgresql" %}
def has_input(connection):
    """Did PostgreSQL send something that nobody asked for? Its farewell, most likely."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


{% endif %}
async def borrow_threads():
    """Send the synchronous calls of the current task, and of those it starts, to a new loan."""
    loan = Loan()
    # Entered and never left: tasks that a view started may outlive the request and need threads.
    await ThreadSensitiveContext(executor=loan).__aenter__()
    return loan


{% if cookiecutter.__channels %}
class ThreadPerCall:
    """Lends the synchronous calls of an ASGI application a thread each, and none while it waits."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        loan = await borrow_threads()
        loan.close()
        await self.app(scope, receive, send)


{% endif %}
pool = ThreadPool(settings.ASGI_THREADS)
atexit.register(pool.close)  # for servers that do not say at a stop that they do
