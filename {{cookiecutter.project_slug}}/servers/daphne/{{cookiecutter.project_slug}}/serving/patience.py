"""Let what runs come to its end before daphne stops, and what breaks end at once.

By itself daphne drops the first. Of the second, a stream that broke, it leaves the connection open
for ever, and ends the watch that it keeps over all applications.
"""

import asyncio

import daphne.server
from daphne.cli import CommandLineInterface
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.defer import Deferred

from .logs import request_id

GRACE = 10  # seconds
SERVICE_RESTART = 1012


def be_patient():
    """Call it when the application is loaded."""
    CommandLineInterface.server_class = PatientServer
    WebRequest.handle_exception = answer_or_cut_off
    daphne.server.HTTPFactory = KeepAliveFactory


class KeepAliveFactory(HTTPFactory):
    """Keeps idle connections open for longer than proxies do. daphne has no option for it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.timeOut = 75  # seconds; Twisted's name


def answer_or_cut_off(request, exception):
    if request._response_started:
        request.loseConnection()
    else:
        request.basic_error(500, b"Internal Server Error", "Exception inside application.")


class PatientServer(Server):
    # Not in daphne's documentation: `listeners`, `connections`, `_response_started`, and these two
    # methods. daphne calls this one each second, and that one when it is told to stop.
    def application_checker(self):
        request_id.set("-")  # Twisted's timers run in the context of some request or other
        super().application_checker()

    def kill_all_applications(self):
        return Deferred.fromFuture(asyncio.ensure_future(self.end()))

    async def end(self):
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        for protocol in self.connections:
            if isinstance(protocol, WebSocketProtocol) and protocol.state == protocol.STATE_OPEN:
                protocol.sendCloseFrame(SERVICE_RESTART)
        of_all = [details.get("application_instance") for details in self.connections.values()]
        applications = [application for application in of_all if application]
        if applications:
            await asyncio.wait(applications, timeout=GRACE)
        for application in applications:
            application.cancel()
