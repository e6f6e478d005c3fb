"""Hardening for uvicorn: what a client must not be able to do, and no option prevents."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Not in uvicorn's documentation: these methods, and the timer that they start and cancel.
accept_connection = HttpToolsProtocol.connection_made
close_connection = HttpToolsProtocol.connection_lost
begin_request = HttpToolsProtocol.on_headers_complete
cancel_timer = HttpToolsProtocol._unset_keepalive_if_required


def install() -> None:
    """Close a connection if no request head is complete within the keep-alive timeout.

    Call this when the application is loaded. By itself uvicorn waits for a connection's first
    request, and for the rest of a head, without limit: https://github.com/Kludex/uvicorn/issues/157
    """
    for method in METHODS:
        setattr(HttpToolsProtocol, method.__name__, method)


def connection_made(protocol: HttpToolsProtocol, transport: asyncio.Transport) -> None:
    accept_connection(protocol, transport)
    protocol.timeout_keep_alive_task = protocol.loop.call_later(
        protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
    )


def _unset_keepalive_if_required(protocol: HttpToolsProtocol) -> None:
    """Do nothing. Uvicorn cancels the timer at the first byte of a request."""


def on_headers_complete(protocol: HttpToolsProtocol) -> None:
    cancel_timer(protocol)
    begin_request(protocol)


def connection_lost(protocol: HttpToolsProtocol, error: Exception | None) -> None:
    cancel_timer(protocol)
    close_connection(protocol, error)


METHODS = (connection_made, _unset_keepalive_if_required, on_headers_complete, connection_lost)
