"""State that lives as long as the server process, such as clients of other services."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from asgiref.typing import (
    ASGIReceiveEvent,
    LifespanShutdownFailedEvent,
    LifespanStartupFailedEvent,
)

from .asgi_types import ASGIApplication, Receive, Scope, Send
from .threads import ThreadPool

State = TypeVar("State")
logger = logging.getLogger(__name__)


class LifespanState(Generic[State]):
    """The state that the context manager `lifespan` yields, once per event loop.

    A server process has one event loop. `asyncio.run` starts another one, and so does
    `async_to_sync` outside a server. In these, the first call of `get` enters the context manager,
    and the end of the event loop exits it.
    """

    def __init__(self, lifespan: Callable[[], AbstractAsyncContextManager[State]]) -> None:
        self.lifespan = lifespan
        self.states: dict[asyncio.AbstractEventLoop, asyncio.Future[State]] = {}
        self.tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    async def get(self) -> State:
        """Return the state of the current event loop. The first call enters the context manager."""
        # The context is empty, since the state outlives the request that first needs it.
        return await self.enter(Context())

    async def enter(self, context: Context) -> State:
        loop = asyncio.get_running_loop()
        if loop not in self.tasks:
            self.states[loop] = loop.create_future()
            self.tasks[loop] = loop.create_task(self._run(loop), context=context)
        return await asyncio.shield(self.states[loop])

    async def leave(self) -> None:
        if task := self.tasks.get(asyncio.get_running_loop()):
            task.cancel()
            await task

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Enter and exit the context manager in one task, as task groups and timeouts require."""
        state = self.states[loop]
        try:
            async with self.lifespan() as value:
                state.set_result(value)
                # Wait until `leave`, or the end of the event loop, cancels the task.
                with suppress(asyncio.CancelledError):
                    await loop.create_future()
        except Exception as error:
            if state.done():
                raise
            state.set_exception(error)
        finally:
            state.cancel()
            del self.states[loop], self.tasks[loop]


class LifespanMiddleware:
    """Enters the state's context manager when the server starts, and exits it at shutdown.

    If the context manager raises an exception on entry, the server does not start. Its synchronous
    calls, such as ORM queries, run in background threads.
    """

    def __init__(self, app: ASGIApplication, state: LifespanState[Any], pool: ThreadPool) -> None:
        self.app = app
        self.state = state
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)
        request_thread = await self.pool.enter_request_context("lifespan")
        request_thread.release()
        stage = ""

        async def receive_and_run() -> ASGIReceiveEvent:
            nonlocal stage
            event = await receive()
            stage = event["type"]
            if stage == "lifespan.startup":
                await self.state.enter(copy_context())
            else:
                await self.state.leave()
            return event

        try:
            return await self.app(scope, receive_and_run, send)
        except Exception:
            # On an exception, servers assume that the application does not support lifespan, and
            # continue.
            logger.exception("Error in %s", stage)
        if stage == "lifespan.startup":
            await send(LifespanStartupFailedEvent(type="lifespan.startup.failed", message=""))
        else:
            await send(LifespanShutdownFailedEvent(type="lifespan.shutdown.failed", message=""))
