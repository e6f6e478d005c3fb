"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import re
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

import httpx
import pytest

from tests.template import SERVERS, Project, free_port

RunNginx = Callable[[str], AbstractContextManager[Callable[[], str]]]
HEAD = b"Host: example.com\r\nX-Forwarded-Proto: https\r\n"

# Row 1: h2c past a proxy.

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2C_REQUESTS = [
    b"GET /livez HTTP/1.1\r\n" + HEAD + H2C,
    b"GET /livez HTTP/1.1\r\n" + HEAD + H2C.replace(b"h2c", b"H2C"),
    b"PRI /livez HTTP/1.1\r\n" + HEAD + H2C,
    b"OPTIONS * HTTP/1.1\r\n" + HEAD + H2C,
    b"GET /livez HTTP/1.1\r\n" + HEAD + b"Upgrade: websocket\r\n" + H2C,
]
# As nginx's documentation has it, and a rule that keeps a path for others.
WEBSOCKET_PROXY = """
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Host example.com;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        location / {{ proxy_pass http://127.0.0.1:{server_port}; }}
        location /admin/ {{ return 403; }}
    }}
"""


@pytest.mark.parametrize("server", SERVERS)
def test_h2c_is_no_tunnel_past_nginx(server: str, production: Callable[..., Project], run_nginx: RunNginx) -> None:
    proxy = free_port()
    with production(server=server).served() as running:
        with run_nginx(WEBSOCKET_PROXY.format(port=proxy, server_port=running.port)):
            running.wait_until(lambda: httpx.get(f"http://127.0.0.1:{proxy}/livez").status_code == 200)
            assert httpx.get(f"http://127.0.0.1:{proxy}/admin/login/").status_code == 403
            for port in (proxy, running.port):
                for request in H2C_REQUESTS:
                    assert_not_upgraded(port, request)
            with closing(socket.create_connection(("127.0.0.1", proxy), timeout=10)) as sock:
                sock.sendall(HTTP2_PREFACE)  # which goes no further than to the proxy
                assert b" 400 " in sock.recv(1000).partition(b"\r\n")[0]
        assert "Traceback" not in running.output


def test_h2c_is_no_tunnel_past_caddy(production: Callable[..., Project], docker: Callable[..., str]) -> None:
    """As in compose.yaml. Of the five servers only hypercorn knows h2c."""
    with production(server="hypercorn").served() as running:
        proxy = free_port()
        command = f"caddy reverse-proxy --from http://:{proxy} --to 127.0.0.1:{running.port}"
        container = docker("run", "--detach", "--network", "host", "caddy:2", *command.split()).split()[0]
        try:
            url = f"http://127.0.0.1:{proxy}/livez"
            running.wait_until(lambda: httpx.get(url).status_code == 200)
            for request in H2C_REQUESTS:
                assert_not_upgraded(proxy, request)
        finally:
            docker("rm", "--force", "--volumes", container)


def assert_not_upgraded(port: int, request: bytes) -> None:
    """The server ignores the header, as it may: RFC 9110, 7.8."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as sock:
        sock.sendall(request + b"\r\n")
        status = re.match(rb"HTTP/1\.1 (\d+) ", sock.recv(1000))
        assert status is not None, request
        assert status[1] != b"101", request


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
