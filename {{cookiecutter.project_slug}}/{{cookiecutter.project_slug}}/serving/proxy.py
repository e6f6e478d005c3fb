"""The client's address and scheme behind a reverse proxy, the same on every ASGI server."""

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any


class ProxyHeaders:
    """Believes `X-Forwarded-For` and `X-Forwarded-Proto` if they come from a trusted address.

    `trusted`: addresses and networks such as 10.0.0.0/8; "*" trusts whoever connects, which is right
    only where nobody but the proxy can. Raises ValueError for anything else.
    """

    def __init__(self, app, trusted):
        self.app = app
        self.trusts_peer = "*" in trusted
        self.networks = [ip_network(address) for address in trusted if address != "*"]
        self.is_trusted = lru_cache(256)(self.is_trusted)  # the same few proxies ask each time

    async def __call__(self, scope, receive, send):
        if scope["type"] in ("http", "websocket"):
            peer = scope["client"][0] if scope.get("client") else ""
            if self.trusts_peer or self.is_trusted(peer):
                scope = self.forwarded(scope)
        await self.app(scope, receive, send)

    def is_trusted(self, host):
        return is_address(host) and any(ip_address(host) in network for network in self.networks)

    def forwarded(self, scope):
        scope = dict(scope)
        # The first proxy, which knows the client's scheme, comes first.
        scheme = next(forwarded_values(scope, b"x-forwarded-proto"), "").lower()
        if scheme in ("http", "https", "ws", "wss"):
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = f"{plain}s" if scheme in ("https", "wss") else plain
        hosts = [without_port(host) for host in forwarded_values(scope, b"x-forwarded-for")]
        # Each proxy appends the address it was called from: what stands left of the last address
        # that is not a trusted proxy's may have been made up by the client.
        for host in filter(None, reversed(hosts)):
            if not is_address(host):
                break
            scope["client"] = (host, 0)
            if not self.is_trusted(host):
                break
        return scope


def forwarded_values(scope: dict[str, Any], header: bytes) -> Iterator[str]:
    """What each proxy wrote into the header, which may be there more than once."""
    for name, value in scope["headers"]:
        if name == header:
            for each in value.decode("latin-1").split(","):
                yield each.strip()


def is_address(host: str) -> bool:
    """Some proxies write `unknown` or `unix:`, and the database takes no such address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def without_port(host):
    """Some proxies write 203.0.113.9:4711 or [2001:db8::9]:4711."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
