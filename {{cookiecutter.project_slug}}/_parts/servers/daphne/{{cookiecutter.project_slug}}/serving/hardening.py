"""Hardening for daphne against client behavior that none of its options prevents."""

from collections.abc import Callable

import daphne.server
from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.protocols.policies import TimeoutMixin
from twisted.web.http import HTTPChannel

process_request: Callable[[WebRequest], Deferred[None]] = WebRequest.process
MAX_QUEUED_MESSAGES = 10
POLL_INTERVAL_SECONDS = 0.05


def install() -> None:
    """Change what daphne accepts. Call this when the application is loaded."""
    daphne.server.WebSocketFactory = HardenedWebSocketFactory
    WebRequest.process = process_without_root_path
    HTTPChannel.resetTimeout = reset_timeout_for_body  # type: ignore[assignment, method-assign]


def process_without_root_path(request: WebRequest) -> Deferred[None]:
    """Drop a header that lets any client set the prefix of all URLs, even of those in emails.

    Daphne has no option for this: https://github.com/django/daphne/issues/125
    """
    request.requestHeaders.removeHeader(b"daphne-root-path")
    return process_request(request)


def reset_timeout_for_body(channel: HTTPChannel) -> None:
    """Extend the timeout with each part of a request body, but not with parts of the headers.

    All headers must arrive within KEEP_ALIVE_SECONDS. Replaces `HTTPChannel.resetTimeout`.
    """
    if not channel.line_mode:
        TimeoutMixin.resetTimeout(channel)  # type: ignore[no-untyped-call]


class LimitedWebSocketProtocol(WebSocketProtocol):
    """Pauses reading while messages wait for the application.

    daphne would queue them without limit.
    """

    # Not in daphne's documentation: `application_queue`.
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        if self.application_queue.qsize() == MAX_QUEUED_MESSAGES:
            self.transport.pauseProducing()
            self.resume_when_received()

    def resume_when_received(self) -> None:
        if self.application_queue.empty():
            self.transport.resumeProducing()
        else:  # asyncio.Queue has no callbacks
            reactor.callLater(POLL_INTERVAL_SECONDS, self.resume_when_received)  # type: ignore[arg-type]


class HardenedWebSocketFactory(WebSocketFactory):
    protocol = LimitedWebSocketProtocol

    def setProtocolOptions(self, **options: object) -> None:
        """Send a close code before the connection ends. By default, autobahn sends none."""
        super().setProtocolOptions(failByDrop=False, **options)
