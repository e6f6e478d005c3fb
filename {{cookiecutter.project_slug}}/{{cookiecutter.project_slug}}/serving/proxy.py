"""The client's address and scheme behind a reverse proxy, on every ASGI server alike."""

from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network

from asgiref.typing import WWWScope

from .asgi_types import ASGIApplication, Receive, Scope, Send


class ProxyHeadersMiddleware:
    """Trusts `X-Forwarded-For` and `X-Forwarded-Proto` if they come from a trusted address.

    `trusted` contains IP addresses and networks such as 10.0.0.0/8. "*" trusts every peer, which is
    safe only if nobody but the proxy can connect. Any other value raises ValueError.
    """

    def __init__(self, app: ASGIApplication, trusted: Collection[str]) -> None:
        self.app = app
        self.trusts_every_peer = "*" in trusted
        self.networks = [ip_network(address) for address in trusted if address != "*"]
        # The same few proxies send most requests, so the results are cached.
        self.is_trusted: Callable[[str], bool] = lru_cache(256)(self.is_in_networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            client = scope.get("client")
            if self.trusts_every_peer or self.is_trusted(client[0] if client else ""):
                scope = self.apply_headers(scope)
        await self.app(scope, receive, send)

    def is_in_networks(self, host: str) -> bool:
        return is_address(host) and any(ip_address(host) in network for network in self.networks)

    def apply_headers(self, scope: WWWScope) -> WWWScope:
        scope = scope.copy()
        # The first value comes from the first proxy, which knows the client's scheme.
        scheme = next(header_values(scope, b"x-forwarded-proto"), "").lower()
        if scheme in ("http", "https", "ws", "wss"):
            insecure = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = f"{insecure}s" if scheme in ("https", "wss") else insecure
        hosts = [remove_port(host) for host in header_values(scope, b"x-forwarded-for")]
        # Each proxy appends the address that connected to it. The client may have forged everything
        # to the left of the last address that is not a trusted proxy's.
        for host in filter(None, reversed(hosts)):
            if not is_address(host):
                break
            scope["client"] = (host, 0)
            if not self.is_trusted(host):
                break
        return scope


def header_values(scope: WWWScope, header: bytes) -> Iterator[str]:
    """Yield each proxy's value of the header, which may occur more than once."""
    for name, value in scope["headers"]:
        if name == header:
            for each in value.decode("latin-1").split(","):
                yield each.strip()


def is_address(host: str) -> bool:
    """Return whether this is an IP address. Proxies may also send `unknown` or `unix:`."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def remove_port(host: str) -> str:
    """Remove the port that some proxies send, as in 203.0.113.9:4711 or [2001:db8::9]:4711."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
