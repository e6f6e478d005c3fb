"""Graceful shutdown for hypercorn: in-flight requests complete, WebSockets are told, and the grace period is kept."""

import asyncio
import signal
import socket
from contextlib import suppress
from multiprocessing import parent_process

from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.events import CloseConnection

close_for_this_process = asyncio.Server.close
SERVICE_RESTART = 1012  # the close code of a WebSocket


def install() -> None:
    """Change how hypercorn stops. Call this when the application is loaded."""
    # https://github.com/pgjones/hypercorn/issues/308: without this, open connections hold up shutdown without limit.
    asyncio.Server.wait_closed = return_at_once  # type: ignore[assignment, method-assign]
    asyncio.Server.close = close_for_all_processes  # type: ignore[assignment, method-assign]
    run.TCPServer = GracefulServer  # type: ignore[misc]
    if parent_process():
        # Hypercorn tells its worker processes by an event that they are to stop. SIGTERM, which they get too if it
        # goes to all processes of a container or session, or when the first of them has ended, would end them at once.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def close_for_all_processes(server: asyncio.Server) -> None:
    """`Server.close()`, which would leave the sockets open in hypercorn's first process.

    They would still take connections, which nobody accepts any more.
    """
    for listener in server.sockets:
        with suppress(OSError):  # another process was first
            listener.shutdown(socket.SHUT_RDWR)
    close_for_this_process(server)


async def return_at_once(server: asyncio.Server) -> None:
    """`Server.wait_closed()` as in Python 3.11; since 3.12 it waits until all connections are closed."""


class GracefulServer(TCPServer):
    """One connection of a client."""

    # Not in hypercorn's documentation: `context.terminated`, which is set at shutdown, and `protocol`.
    async def run(self) -> None:
        follower = asyncio.create_task(self.follow_shutdown())
        try:
            await super().run()
        except (asyncio.CancelledError, ExceptionGroup):
            if not self.context.terminated.is_set():
                raise
            # The grace period is over. What is cut off here would otherwise be logged as an error of the server.
        finally:
            follower.cancel()

    async def follow_shutdown(self) -> None:
        await self.context.terminated.wait()
        # Hypercorn waits without limit until the client has read what is left in the buffers.
        self.loop.call_later(self.config.graceful_timeout, self.writer.transport.abort)
        stream = getattr(self.protocol.protocol, "stream", None)
        if isinstance(stream, WSStream) and stream.state == ASGIWebsocketState.CONNECTED:
            await stream._send_wsproto_event(CloseConnection(code=SERVICE_RESTART))
