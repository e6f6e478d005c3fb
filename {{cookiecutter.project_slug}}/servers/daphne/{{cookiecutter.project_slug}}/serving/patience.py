"""Let what runs come to its end before daphne stops; by itself, it drops it."""

import asyncio

from daphne.cli import CommandLineInterface
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet.defer import Deferred

GRACE = 10  # seconds
SERVICE_RESTART = 1012


def be_patient():
    """Call it when the application is loaded."""
    CommandLineInterface.server_class = PatientServer


class PatientServer(Server):
    # Not in daphne's documentation: `listeners`, `connections`, and this method, which daphne calls
    # when it is told to stop.
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
