"""Lifespan and graceful shutdown for daphne.

At shutdown, in-flight requests complete, and WebSockets receive a close frame. Without this module,
daphne drops both, and does not support lifespan. A stream that fails would also keep its connection
open, and stop the check of all applications that daphne runs each second.
"""

import asyncio
import sys
import time
from typing import Any, cast

import daphne.server
from daphne.cli import CommandLineInterface
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.web.http import HTTPChannel

from .logs import request_id

GRACE_PERIOD_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
POLL_INTERVAL_SECONDS = 0.05
SERVICE_RESTART = 1012  # the close code of a WebSocket
STARTUP_FAILURE = 3  # exit status


def install() -> None:
    """Change how daphne starts and stops. Call this when the application is loaded."""
    CommandLineInterface.server_class = GracefulServer
    WebRequest.handle_exception = send_500_or_disconnect
    daphne.server.HTTPFactory = KeepAliveFactory


class KeepAliveFactory(HTTPFactory):
    """Keeps idle connections open for longer than proxies do. daphne has no option for this."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.timeOut = KEEP_ALIVE_SECONDS


def send_500_or_disconnect(request: WebRequest, exception: Exception) -> None:
    if request._response_started:
        request.loseConnection()
    else:
        request.basic_error(500, b"Internal Server Error", "Exception inside application.")


def end_keep_alive(channel: HTTPChannel, request: WebRequest, version: bytes) -> bool:
    """Close each connection after its response. Replaces `HTTPChannel.checkPersistence`."""
    request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
    return False


class GracefulServer(Server):
    # Not in daphne's documentation: `listeners`, `connections`, `_response_started`, and the methods
    # `listen_success`, `application_checker` (which daphne calls each second) and
    # `kill_all_applications` (which it calls at shutdown).
    def run(self) -> None:
        # The reactor's event loop is not running yet.
        loop: asyncio.AbstractEventLoop = cast(Any, reactor)._asyncioEventloop
        self.received: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        self.lifespan = loop.create_task(self.application(scope, self.received.get, self.sent.put))
        self.lifespan.add_done_callback(self.note_end_of_lifespan)
        if loop.run_until_complete(self.send_lifespan("startup")) == "lifespan.startup.failed":
            sys.exit(STARTUP_FAILURE)
        super().run()

    def note_end_of_lifespan(self, task: asyncio.Task[None]) -> None:
        """Ignore the exception of an application that does not support lifespan."""
        task.exception()
        self.sent.put_nowait({"type": "ended"})

    async def send_lifespan(self, stage: str) -> str:
        """Send a lifespan event to the application, and return the type of its response."""
        self.received.put_nowait({"type": f"lifespan.{stage}"})
        return str((await self.sent.get())["type"])

    def listen_success(self, port: IListeningPort) -> IListeningPort:
        super().listen_success(port)
        return port  # for the callback in `shut_down`

    def application_checker(self) -> None:
        request_id.set("-")  # Twisted's timers run in the context of an arbitrary request
        super().application_checker()

    def kill_all_applications(self) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(self.shut_down()))

    async def shut_down(self) -> None:
        deadline = time.monotonic() + GRACE_PERIOD_SECONDS
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        HTTPChannel.checkPersistence = end_keep_alive  # type: ignore[method-assign]
        for protocol, details in self.connections.items():
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(SERVICE_RESTART)
            elif isinstance(protocol, WebRequest) and "disconnected" not in details:
                protocol.channel.persistent = False
        while self.is_busy() and time.monotonic() < deadline:  # noqa: ASYNC110 (daphne has no event)
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
        for details in self.connections.values():
            if application := details.get("application_instance"):
                application.cancel()
        if not self.lifespan.done():
            await self.send_lifespan("shutdown")

    def is_busy(self) -> bool:
        for details in self.connections.values():
            application = details.get("application_instance")
            if "disconnected" not in details or (application and not application.done()):
                return True
        # True while a client has not received its whole response.
        return bool(reactor.getWriters())  # type: ignore[misc]
