"""Hardening for daphne: what a client must not be able to do, and no option prevents."""

import daphne.server
from daphne.ws_protocol import WebSocketFactory


def install() -> None:
    """Change what daphne accepts. Call this when the application is loaded."""
    daphne.server.WebSocketFactory = HardenedWebSocketFactory


class HardenedWebSocketFactory(WebSocketFactory):
    def setProtocolOptions(self, **options: object) -> None:  # noqa: N802 (autobahn's name)
        """Say by a close code why a connection ends, where autobahn would just drop it."""
        super().setProtocolOptions(failByDrop=False, **options)
