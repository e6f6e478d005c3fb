"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import asyncio
import re
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest

from tests.template import SERVERS, Project, connect, edit, free_port

RunNginx = Callable[[str], AbstractContextManager[Callable[[], str]]]
HEAD = b"Host: example.com\r\nX-Forwarded-Proto: https\r\n"
WEBSOCKET_HEAD = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
)

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

LIMIT_BYTES = 1_048_576
PROTOCOL_ERROR, MESSAGE_TOO_BIG = 1002, 1009
CLIENTS = 4
MAX_QUEUED_MESSAGES = 10  # of hypercorn and daphne; the others read on when the application has received a message
# Four messages of 1 MiB, decoded and copied, and what Python needs besides.
MAX_MEMORY_BYTES = 16 * LIMIT_BYTES
# granian puts together up to 64 MiB before it calls the application: docs/servers.md.
MAX_GRANIAN_MEMORY_BYTES = CLIENTS * 64 * LIMIT_BYTES + MAX_MEMORY_BYTES
# The others refuse what was compressed, since they have agreed to no compression.
COMPRESSING_SERVERS = ("uvicorn", "gunicorn")

MEASURE = """
import asyncio

from channels.generic.websocket import AsyncWebsocketConsumer


class Measure(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "wait":
            await asyncio.sleep(3)
        await self.send(str(len(bytes_data or text_data.encode())))
"""


@pytest.fixture
def measured(production: Callable[..., Project]) -> Callable[[str], Project]:
    """`measured(server)`: a project with a consumer at /ws/measure/ that says how many bytes a message has."""

    def make(server: str) -> Project:
        made = production(server=server, channels=True)
        (made.path / "pages" / "consumers.py").write_text(MEASURE)
        routing = made.path / "wiki" / "routing.py"
        edit(
            routing,
            '    re_path("", not_found)',
            '    re_path("^ws/measure/$", Measure.as_asgi()),\n    re_path("", not_found)',
        )
        edit(routing, "import re_path", "import re_path\nfrom pages.consumers import Measure")
        return made

    return make


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("server", SERVERS)
def test_websockets_cost_no_memory(server: str, measured: Callable[[str], Project]) -> None:
    """Four clients at once send messages over the limit in every way, then more than an application receives."""
    with measured(server).served() as running, ThreadPoolExecutor() as threads:
        asyncio.run(send_allowed_messages(f"ws://127.0.0.1:{running.port}/ws/measure/"))
        for name, attack in ATTACKS.items():
            with peak_memory(running.process.pid) as peak:
                codes = set(threads.map(send_frames, [running.port] * CLIENTS, [attack() for _ in range(CLIENTS)]))
            assert codes <= expected_codes(server, name), name
            is_assembled = (server, name) == ("granian", "a thousand fragments")
            assert peak.bytes < (MAX_GRANIAN_MEMORY_BYTES if is_assembled else MAX_MEMORY_BYTES), name
        with peak_memory(running.process.pid) as peak:
            list(threads.map(flood, [running.port] * CLIENTS))
        assert peak.bytes < CLIENTS * MAX_QUEUED_MESSAGES * LIMIT_BYTES + MAX_MEMORY_BYTES
        assert "Traceback" not in running.output


def expected_codes(server: str, attack: str) -> set[int | None]:
    if "compressed" in attack and server not in COMPRESSING_SERVERS:
        return {PROTOCOL_ERROR, None}
    if (server, attack) == ("granian", "an endless frame"):
        return {None}  # of more than 16 MiB; it is refused by its head
    return {MESSAGE_TOO_BIG}


def flood(port: int) -> None:
    """Send messages for three seconds to a consumer that waits."""
    with open_websocket(port)[0] as sock:
        sock.sendall(frame(b"wait", 1))
        sock.settimeout(3)
        with suppress(TimeoutError):
            for _ in range(100):
                sock.sendall(frame(BLOCK * 15))


async def send_allowed_messages(url: str) -> None:
    for compression in ("deflate", None):
        async with connect(url, compression=compression) as client:
            for message in ("x" * LIMIT_BYTES, b"x" * LIMIT_BYTES, ["x" * 1024] * 1023):
                await client.send(message)
                assert int(await client.recv()) == len("".join(message) if isinstance(message, list) else message)


def frame(
    payload: bytes, opcode: int = 2, *, final: bool = True, compressed: bool = False, length: int | None = None
) -> bytes:
    """A frame as a client sends it, masked with zeros, that may announce more than it has."""
    length = length or len(payload)
    marker, size = (length, 0) if length < 126 else (126, 2) if length < 2**16 else (127, 8)
    head = bytes([final << 7 | compressed << 6 | opcode, 0x80 | marker])
    return head + (length.to_bytes(size) if size else b"") + bytes(4) + payload


def compress(size: int) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    block = bytes(1024 * 1024)
    data = b"".join(compressor.compress(block) for _ in range(size // len(block)))
    return data + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


BLOCK = b"x" * 65536
BOMB = compress(200 * LIMIT_BYTES)
ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "one frame": lambda: iter([frame(BLOCK * 17)]),
    "an endless frame": lambda: chain([frame(b"", length=2**40)], repeat(BLOCK, 1000)),
    "a thousand fragments": lambda: chain(
        [frame(BLOCK, final=False)], repeat(frame(BLOCK, 0, final=False), 1000), [frame(b"", 0)]
    ),
    "characters of three bytes": lambda: iter([frame("€".encode() * 400_000, 1)]),
    "a compressed frame": lambda: iter([frame(BOMB, compressed=True)]),
    "compressed fragments": lambda: chain(
        [frame(BOMB[:1000], final=False, compressed=True)],
        (frame(BOMB[start : start + 1000], 0, final=False) for start in range(1000, len(BOMB), 1000)),
    ),
}


def send_frames(port: int, frames: Iterator[bytes]) -> int | None:
    """Send until the server ends the connection; returns its close code, if there was one."""
    sock, received = open_websocket(port)
    with sock:
        with suppress(ConnectionError):
            for each in frames:
                sock.sendall(each)
        with suppress(ConnectionError):
            while part := sock.recv(1000):
                received += part
    return close_code(received)


def open_websocket(port: int) -> tuple[socket.socket, bytes]:
    """A connection, and what was received after the response to its handshake."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(b"GET /ws/measure/ HTTP/1.1\r\n" + HEAD + WEBSOCKET_HEAD + b"\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(1000)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b" 101 " in head.partition(b"\r\n")[0], head
    return sock, rest


def close_code(data: bytes) -> int | None:
    """The code of the first close frame in what a server sent, whose frames are all short."""
    while data:
        opcode, length = data[0] & 15, data[1]
        if opcode == 8:
            return int.from_bytes(data[2:4]) if length else None
        data = data[2 + length :]
    return None


@dataclass
class Peak:
    bytes: int = 0


@contextmanager
def peak_memory(pid: int) -> Iterator[Peak]:
    """How much more memory the processes below this one had at most, in the block."""
    peak = Peak()
    pids = descendants(pid)
    before = sum(read_status(each, "VmRSS") for each in pids)
    for each in pids:
        Path(f"/proc/{each}/clear_refs").write_text("5")  # resets VmHWM, the peak of VmRSS
    yield peak
    peak.bytes = sum(read_status(each, "VmHWM") for each in pids) - before


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def read_status(pid: int, name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.

FOREIGN_ORIGINS = [
    None,
    b"null",
    b"",
    b"https://evil.example",
    b"http://example.com",
    b"ftp://example.com",
    b"https://example.com:8443",
    b"https://sub.example.com",
    b"https://example.com.evil.example",
    b"https://example.com@evil.example",
    b"https://trusted.example.evil.example",
    b"http://a.trusted.example",
    b"https://example.com/",
    b"example.com",
    b"//example.com",
    b"https://[::1",
    b"https://\xff",
    b"https://example.com\r\nOrigin: https://evil.example",
]


@pytest.mark.parametrize("server", SERVERS)
def test_origins(server: str, measured: Callable[[str], Project]) -> None:
    """A WebSocket is opened for the same Origins for which Django accepts a form."""
    with measured(server).served(DJANGO_CSRF_TRUSTED_ORIGINS="https://*.trusted.example") as running:

        def shake_hands(origin: bytes | None, host: bytes = b"example.com", scheme: bytes = b"https") -> int:
            head = HEAD.replace(b"example.com", host).replace(b"https", scheme)
            sent = WEBSOCKET_HEAD.replace(
                b"Origin: https://example.com\r\n", b"" if origin is None else b"Origin: " + origin + b"\r\n"
            )
            return ask_raw(running.port, b"GET /ws/measure/ HTTP/1.1\r\n" + head + sent + b"\r\n")[0]

        assert shake_hands(b"https://example.com") == 101
        assert shake_hands(b"https://a.trusted.example") == 101
        assert shake_hands(b"https://example.com:8443", b"example.com:8443") == 101
        assert shake_hands(b"http://example.com", scheme=b"http") == 101
        for origin in FOREIGN_ORIGINS:
            assert shake_hands(origin) in (400, 403), origin
        assert shake_hands(b"https://example.com", scheme=b"http") == 403
        assert shake_hands(b"https://evil.example", b"evil.example") == 403
        assert shake_hands(b"https://a.trusted.example", b"evil.example") == 403
        assert "Traceback" not in running.output


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.

# Not those that HTTP allows besides: https://www.rfc-editor.org/rfc/rfc9112#section-3.2
REQUEST_TARGETS = [
    b"@evil.example/x",
    b".evil.example/x",
    b"evil.example/x",
    b"%40evil.example/x",
    b":80@evil.example",
    b"*@evil.example",
]


@pytest.mark.parametrize("server", SERVERS)
def test_request_targets_that_are_no_path(server: str, measured: Callable[[str], Project]) -> None:
    """By plain HTTP, so that Django redirects to HTTPS: to this host, or not at all."""
    host = b"Host: example.com\r\nConnection: close\r\n\r\n"
    with measured(server).served() as running:
        for target in REQUEST_TARGETS:
            assert ask_raw(running.port, b"GET " + target + b" HTTP/1.1\r\n" + host)[0] == 400, target
        for target in (b"//evil.example/x", b"/@evil.example", b"/\\evil.example", b"http://evil.example/x", b"*"):
            status, head = ask_raw(running.port, b"GET " + target + b" HTTP/1.1\r\n" + host)
            location = re.search(rb"(?i)^location: ?(.*)", head, re.MULTILINE)
            assert status == 400 or location[1].startswith(b"https://example.com/"), target
        handshake = b"GET xws/measure/ HTTP/1.1\r\n" + HEAD + WEBSOCKET_HEAD + b"\r\n"
        assert ask_raw(running.port, handshake)[0] in (400, 403)
        assert "Traceback" not in running.output


def ask_raw(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and the head of the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head and (part := sock.recv(1000)):
            head += part
    return int(head.split(b" ")[1]), head


# Row 15: what a container may do.


# Row 16: half-open connections.

HEAD_TIMEOUT_SECONDS = 3
# Where each server's timeout stands, which is too long to wait for here.
HEAD_TIMEOUT = {
    "uvicorn": ("Procfile", "--timeout-keep-alive 75", f"--timeout-keep-alive {HEAD_TIMEOUT_SECONDS}"),
    "daphne": (
        "wiki/serving/graceful_shutdown.py",
        "KEEP_ALIVE_SECONDS = 75",
        f"KEEP_ALIVE_SECONDS = {HEAD_TIMEOUT_SECONDS}",
    ),
    "hypercorn": ("Procfile", "--keep-alive 75", f"--keep-alive {HEAD_TIMEOUT_SECONDS}"),
    "gunicorn": ("Procfile", "--keep-alive 75", f"--keep-alive {HEAD_TIMEOUT_SECONDS}"),
    "granian": (
        "Procfile",
        "--http1-header-read-timeout 60000",
        f"--http1-header-read-timeout {1000 * HEAD_TIMEOUT_SECONDS}",
    ),
}
HALF_OPEN = {
    "silent": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: exam",
    "half a handshake": b"GET /ws/measure/ HTTP/1.1\r\n" + WEBSOCKET_HEAD,
}


@pytest.mark.parametrize("server", SERVERS)
def test_half_open_connections_are_closed(server: str, measured: Callable[[str], Project]) -> None:
    """Also those that send a byte now and then; a slow body is waited for."""
    made = measured(server)
    name, old, new = HEAD_TIMEOUT[server]
    edit(made.path / name, old, new)
    with made.served() as running:
        asyncio.run(stay_half_open(running.port))
        assert "Traceback" not in running.output


async def stay_half_open(port: int) -> None:
    start = time.monotonic()
    async with asyncio.timeout(HEAD_TIMEOUT_SECONDS + 20):
        upload = asyncio.create_task(upload_slowly(port, 2 * HEAD_TIMEOUT_SECONDS))
        waiting = []
        for words in list(HALF_OPEN.values()) * 100:
            # One by one: more than a server has in its backlog would be open for the client alone.
            connection = await asyncio.open_connection("127.0.0.1", port)
            waiting.append(wait_until_closed(*connection, words, drips=bool(words) and len(waiting) % 2 == 0))
        await asyncio.gather(*waiting)
        assert time.monotonic() - start > HEAD_TIMEOUT_SECONDS / 2
        assert await upload == 403  # without a CSRF token


async def wait_until_closed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: bytes, *, drips: bool
) -> None:
    writer.write(words)
    closed = asyncio.create_task(reader.read())
    while not (await asyncio.wait([closed], timeout=0.5))[0]:
        if drips:
            writer.write(b"x")
    with suppress(ConnectionError):
        assert await closed == b""
    writer.transport.abort()


async def upload_slowly(port: int, seconds: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /accounts/login/ HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % seconds)
    for _ in range(seconds):
        await asyncio.sleep(1)
        writer.write(b"x")
    status = int((await reader.readuntil(b"\r\n")).split(b" ")[1])
    writer.transport.abort()
    return status


# What else servers take from anybody.

# By what some server, framework or proxy has once let a client choose the host, the path or the prefix.
FOREIGN_HEADERS = [
    (b"Daphne-Root-Path", b"http://evil.example"),
    (b"Daphne-Root-Path", b".evil.example"),
    (b"Daphne-Root-Path", b"\xff\xfe"),
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Forwarded-Port", b"8443"),
    (b"X-Forwarded-Prefix", b"/x"),
    (b"X-Script-Name", b"/x"),
    (b"Script-Name", b"/x"),
    (b"Path-Info", b"/x"),
    (b"X-Original-URL", b"/livez"),
    (b"X-Rewrite-URL", b"/livez"),
    (b"X-HTTP-Method-Override", b"POST"),
    (b"Forwarded", b"host=evil.example;proto=http"),
]


@pytest.mark.parametrize("server", SERVERS)
def test_headers_choose_no_url(server: str, measured: Callable[[str], Project]) -> None:
    """Also if a trusted proxy passes them on, as proxies do with headers that they do not know."""
    with measured(server).served() as running:
        for name, value in FOREIGN_HEADERS:
            head = HEAD + name + b": " + value + b"\r\n"
            status, answer = ask_raw(running.port, b"GET /accounts/password_change/ HTTP/1.1\r\n" + head + b"\r\n")
            assert status == 302, name
            location = re.search(rb"(?i)^location: ?(.*)\r$", answer, re.MULTILINE)[1]
            assert location == b"/accounts/login/?next=/accounts/password_change/", name
            head = WEBSOCKET_HEAD + head
            assert ask_raw(running.port, b"GET /ws/measure/ HTTP/1.1\r\n" + head + b"\r\n")[0] == 101, name
        head = HEAD + b"Daphne-Root-Path: /x\r\n\r\n"
        assert ask_raw(running.port, b"GET /x/admin/login/ HTTP/1.1\r\n" + head)[0] == 404
        assert "Traceback" not in running.output
