"""Hardening for daphne: what a client must not be able to do, and no option prevents."""

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
    """Drop a header by which anybody could choose the beginning of all URLs, also in mails.

    Daphne has no option for it: https://github.com/django/daphne/issues/125
    """
    request.requestHeaders.removeHeader(b"daphne-root-path")
    return process_request(request)


def reset_timeout_for_body(channel: HTTPChannel) -> None:
    """Give a client that sends a body more time with each part of it, but not one that sends a head.

    It has KEEP_ALIVE_SECONDS for all of the head, as a `HTTPChannel.resetTimeout`.
    """
    if not channel.line_mode:
        TimeoutMixin.resetTimeout(channel)  # type: ignore[no-untyped-call]


class LimitedWebSocketProtocol(WebSocketProtocol):
    """Reads nothing while the application has messages to receive. daphne would queue them without limit."""

    # Not in daphne's documentation: `application_queue`.
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        if self.application_queue.qsize() == MAX_QUEUED_MESSAGES:
            self.transport.pauseProducing()
            self.resume_when_received()

    def resume_when_received(self) -> None:
        if self.application_queue.empty():
            self.transport.resumeProducing()
        else:  # an asyncio.Queue calls nobody back
            reactor.callLater(POLL_INTERVAL_SECONDS, self.resume_when_received)  # type: ignore[arg-type]


class HardenedWebSocketFactory(WebSocketFactory):
    protocol = LimitedWebSocketProtocol

    def setProtocolOptions(self, **options: object) -> None:
        """Say by a close code why a connection ends, where autobahn would just drop it."""
        super().setProtocolOptions(failByDrop=False, **options)
