"""Graceful shutdown for hypercorn.

In-flight requests complete, and WebSockets receive a close frame. By itself, hypercorn waits for
open connections without limit, or until one of them fails.
"""

import asyncio
import errno
import signal
import socket
from contextlib import suppress
from multiprocessing import parent_process
from typing import Any

import hypercorn.protocol
from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.events import CloseConnection

close_for_this_process = asyncio.Server.close
handle_exception = run._exception_handler
POLL_INTERVAL_SECONDS = 0.05
SERVICE_RESTART = 1012  # the close code of a WebSocket


def install() -> None:
    """Change how hypercorn stops. Call this when the application is loaded."""
    # https://github.com/pgjones/hypercorn/issues/308: open connections block shutdown.
    asyncio.Server.wait_closed = return_at_once  # type: ignore[assignment, method-assign]
    asyncio.Server.close = close_for_all_processes  # type: ignore[assignment, method-assign]
    run._exception_handler = ignore_closed_listener
    run.TCPServer = GracefulServer  # type: ignore[attr-defined]
    hypercorn.protocol.H2Protocol = GracefulH2Protocol  # type: ignore[attr-defined]
    if parent_process():
        # Hypercorn stops its worker processes with an event. SIGTERM would end them immediately.
        # They receive SIGTERM, too, if it is sent to all processes of a container or session, or
        # when the first of them has ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def close_for_all_processes(server: asyncio.Server) -> None:
    """Close the server's sockets in all processes. Replaces `Server.close`.

    Otherwise they would stay open in hypercorn's first process, and take connections that no
    process accepts any more.
    """
    for listener in server.sockets:
        with suppress(OSError):  # another process has closed it
            listener.shutdown(socket.SHUT_RDWR)
    close_for_this_process(server)


def ignore_closed_listener(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log no error about closed sockets in processes that notice the shutdown a little later."""
    if getattr(context.get("exception"), "errno", None) != errno.EINVAL:
        handle_exception(loop, context)


async def return_at_once(server: asyncio.Server) -> None:
    """Replaces `Server.wait_closed`, which waits for all connections since Python 3.12."""


class GracefulServer(TCPServer):
    """The connection of one client, which is closed at shutdown."""

    # Not in hypercorn's documentation: this method, `context.terminated`, which is set at shutdown,
    # and `protocol`.
    async def run(self) -> None:
        follower = asyncio.create_task(self.follow_shutdown())
        try:
            await super().run()
        except (asyncio.CancelledError, Exception):
            # An error would end the wait for other connections, and lose their requests. A TLS
            # connection fails, for example, if its client sends data after the server has closed it.
            if not self.context.terminated.is_set():
                raise
        finally:
            follower.cancel()

    async def follow_shutdown(self) -> None:
        await self.context.terminated.wait()
        # Hypercorn waits without limit until the client has read the buffered data.
        self.loop.call_later(self.config.graceful_timeout, self.writer.transport.abort)
        stream = getattr(self.protocol.protocol, "stream", None)
        if isinstance(stream, WSStream) and stream.state == ASGIWebsocketState.CONNECTED:
            await stream._send_wsproto_event(CloseConnection(code=SERVICE_RESTART))


class GracefulH2Protocol(H2Protocol):
    """Sends the end of a response before the end of the connection.

    At shutdown, hypercorn may end the connection first if a response is large. To the client, this
    is an error.
    """

    async def stream_send(self, event: Event) -> None:
        if isinstance(event, StreamClosed) and self.context.terminated.is_set():
            while self.ends_later(event.stream_id):  # noqa: ASYNC110 (hypercorn has no event)
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
        await super().stream_send(event)

    def ends_later(self, stream_id: int) -> bool:
        """Return whether the response is complete, but part of it has not been sent yet."""
        buffer = self.stream_buffers.get(stream_id)
        return buffer is not None and buffer.complete and not self.closed
