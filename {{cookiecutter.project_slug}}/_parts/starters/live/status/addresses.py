"""Validation of services' URLs. The board is public, and checks send requests from this machine."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import httpx2
from django.conf import settings
from django.core.exceptions import ValidationError


class LocalAddressError(Exception):
    """The service has a loopback, link-local or unspecified address."""


def validate_url(url: str) -> None:
    """Raise ValidationError if the URL is not allowed. Each check resolves the host name later."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValidationError(f"{url!r} is not a URL: {error}.") from error
    if parsed.scheme not in ("http", "https"):
        raise ValidationError("The URL must start with http:// or https://.")
    if parsed.userinfo:
        raise ValidationError("The board shows this URL to everybody. Remove the credentials.")
    if not settings.STATUS_ALLOW_LOCAL_ADDRESSES and is_local(parsed.host):
        raise ValidationError(
            f"{parsed.host} is a loopback or link-local address. "
            "Set STATUS_ALLOW_LOCAL_ADDRESSES to check such services."
        )


def is_local(host: str) -> bool:
    """Return whether the host is localhost or a loopback, link-local or unspecified address."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def reject_local_addresses(url: str) -> Callable[[str, dict[str, Any]], Awaitable[None]]:
    """Return a `trace` function for httpx2, which raises LocalAddressError.

    The function checks the addresses before connecting, so that the board does not reveal the open
    ports of this machine. It checks the connection's address as well, because the second lookup of
    the name can return a different address.
    """
    host = httpx2.URL(url).raw_host.decode()
    is_direct = False

    async def trace(event: str, info: dict[str, Any]) -> None:
        nonlocal is_direct
        addresses: list[str] = []
        if event == "connection.connect_tcp.started":
            is_direct = info["host"] == host  # otherwise it is a proxy, which resolves the name
            if is_direct:
                addresses = await resolve(host, info["port"])
        elif event == "connection.connect_tcp.complete" and is_direct:
            addresses = [info["return_value"].get_extra_info("server_addr")[0]]
        if any(map(is_local, addresses)):
            if "return_value" in info:
                await info["return_value"].aclose()
            raise LocalAddressError

    return trace


async def resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # the connection fails as well, with a better error
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(address[0]) for *_, address in found]
    return []
