"""Calls that run after the response has been sent."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import Context
from functools import cache
from time import monotonic, sleep

from .conf import get_setting
from .database import call_with_clean_connections

# The response is sent during the delay, so that its duration reveals nothing about the call.
DELAY_SECONDS = 1
SHUTDOWN_TIMEOUT_SECONDS = 5

logger = logging.getLogger(__name__)

pending: set[Future[None]] = set()


@cache
def get_executor() -> ThreadPoolExecutor:
    """Return the executor of all deferred calls. The interpreter joins its threads at exit."""
    return ThreadPoolExecutor(get_setting("ASGI_BACKGROUND_THREADS"), "asgi-deferred")


def defer(call: Callable[[], object]) -> None:
    """Run a call after the response has been sent. A graceful shutdown waits for it."""
    due = monotonic() + DELAY_SECONDS

    def call_when_due() -> None:
        sleep(max(0, due - monotonic()))
        try:
            # Each call gets its own context, since the thread also runs calls of other requests.
            Context().run(call_with_clean_connections, call)
        except Exception:
            logger.exception("A deferred call failed")

    future = get_executor().submit(call_when_due)
    pending.add(future)
    future.add_done_callback(pending.discard)


def wait_for_deferred_calls() -> None:
    """Wait for all calls to finish, for at most SHUTDOWN_TIMEOUT_SECONDS."""
    if lost := wait(set(pending), SHUTDOWN_TIMEOUT_SECONDS).not_done:
        get_executor().shutdown(wait=False, cancel_futures=True)
        logger.error("%d deferred calls did not finish before the shutdown timeout.", len(lost))
