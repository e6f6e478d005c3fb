"""Attacks on generated projects in production mode, each from outside: docs/explanation/security.md says who may do what."""

import asyncio
import getpass
import itertools
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from tests.template import (
    CHOICES,
    IN_CI,
    ROOT,
    SERVERS,
    Answers,
    Docker,
    MakeProject,
    Project,
    RunNginx,
    Server,
    also_in_test_all,
    connect,
    edit,
    first_match,
    free_port,
    generate,
    label,
    on_servers,
)
from tests.test_cookiecutter import posix
from tests.test_hooks import cookiecutter

HEAD = b"Host: example.com\r\nX-Forwarded-Proto: https\r\n"
WEBSOCKET_HEAD = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nOrigin: https://example.com\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
)
MAX_CHECK_SECONDS = 20


class Service(ThreadingHTTPServer):
    """A service that the `live` starter checks: /drip/ sends 103 twice a second, /redirect/ redirects."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ServiceHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.paths: list[str] = []
        self.closing = threading.Event()


class ServiceHandler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        with suppress(OSError):  # the client has left
            while self.path == "/drip/" and not self.server.closing.wait(0.5):
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            self.send_response(302 if self.path == "/redirect/" else 200)
            self.send_header("Location", "/secret/")
            self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.closing.set()
        server.shutdown()


def add_services(project: Project, urls: dict[str, str]) -> None:
    rows = f"[Service(name=name, url=url) for name, url in {urls!r}.items()]"
    project.manage("shell", "--command", f"from status.models import *; Service.objects.bulk_create({rows})")


def sign_in(client: httpx.Client) -> None:
    client.headers["Origin"] = "https://example.com"
    client.get("/accounts/login/")
    form = {"username": "ada", "password": "analytical-engine"}
    assert post(client, "/accounts/login/", **form).status_code == 302


def post(client: httpx.Client, path: str, **form: str) -> httpx.Response:
    return client.post(path, data=form | {"csrfmiddlewaretoken": client.cookies["csrftoken"]})


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
# From nginx's documentation, with a rule that blocks a path.
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


@on_servers("hypercorn")  # the only one that knows h2c
def test_h2c_is_no_tunnel_past_nginx(server: str, make_production_project: MakeProject, run_nginx: RunNginx) -> None:
    proxy = free_port()
    with make_production_project(server=server).run_server() as running:
        with run_nginx(WEBSOCKET_PROXY.format(port=proxy, server_port=running.port)):
            running.wait_until(lambda: httpx.get(f"http://127.0.0.1:{proxy}/livez").status_code == 200)
            assert httpx.get(f"http://127.0.0.1:{proxy}/admin/login/").status_code == 403
            for port in (proxy, running.port):
                for request in H2C_REQUESTS:
                    assert_not_upgraded(port, request)
            with closing(socket.create_connection(("127.0.0.1", proxy), timeout=10)) as sock:
                sock.sendall(HTTP2_PREFACE)  # which the proxy does not forward
                assert b" 400 " in sock.recv(1000).partition(b"\r\n")[0]
        assert "Traceback" not in running.output


def test_h2c_is_no_tunnel_past_caddy(make_production_project: MakeProject, docker: Docker) -> None:
    """As in compose.yaml. Of the five servers only hypercorn knows h2c."""
    with make_production_project(server="hypercorn").run_server() as running:
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

MAX_MESSAGE_BYTES = 1_048_576
PROTOCOL_ERROR, MESSAGE_TOO_BIG = 1002, 1009
CLIENT_COUNT = 4
MAX_QUEUED_MESSAGES = (
    10  # of hypercorn and daphne; the others read the next message when the application has received one
)
# Four messages of 1 MiB, decoded and copied, and what Python needs besides.
MAX_MEMORY_BYTES = 16 * MAX_MESSAGE_BYTES
# granian assembles up to 64 MiB before it calls the application: docs/explanation/servers.md.
MAX_GRANIAN_MEMORY_BYTES = 2 * CLIENT_COUNT * 64 * MAX_MESSAGE_BYTES  # a message, and its copy for Python
# The others reject compressed frames, since they negotiate no compression.
COMPRESSING_SERVERS = ("uvicorn", "gunicorn")

MEASURE_CONSUMER = """
import asyncio

from channels.generic.websocket import AsyncWebsocketConsumer


class Measure(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "wait":
            await asyncio.sleep(3)
        await self.send(str(len(bytes_data or text_data.encode())))
"""


@pytest.fixture
def make_websocket_project(make_production_project: MakeProject) -> Callable[[str], Project]:
    """A project with a consumer at /ws/measure/ that returns the size of each message in bytes."""

    def make(server: str) -> Project:
        project = make_production_project(server=server, channels=True)
        (project.path / "pages" / "consumers.py").write_text(MEASURE_CONSUMER)
        routing = project.path / "wiki" / "routing.py"
        edit(
            routing,
            '    re_path("", not_found)',
            '    re_path("^ws/measure/$", Measure.as_asgi()),\n    re_path("", not_found)',
        )
        edit(routing, "import re_path", "import re_path\nfrom pages.consumers import Measure")
        return project

    return make


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@on_servers("uvicorn", "daphne", "granian")
def test_websockets_cost_no_memory(server: str, make_websocket_project: Callable[[str], Project]) -> None:
    """Four clients at once send messages over the limit in every way, then more than an application receives."""
    with make_websocket_project(server).run_server() as running, ThreadPoolExecutor() as threads:
        asyncio.run(send_allowed_messages(f"ws://127.0.0.1:{running.port}/ws/measure/"))
        for name, attack in ATTACKS.items():
            with peak_memory(running.process.pid) as peak:
                codes = set(
                    threads.map(send_frames, [running.port] * CLIENT_COUNT, [attack() for _ in range(CLIENT_COUNT)])
                )
            assert codes <= expected_codes(server, name), name
            is_assembled = (server, name) == ("granian", "a thousand fragments")
            assert peak.bytes < (MAX_GRANIAN_MEMORY_BYTES if is_assembled else MAX_MEMORY_BYTES), name
        with peak_memory(running.process.pid) as peak:
            list(threads.map(flood, [running.port] * CLIENT_COUNT))
        assert peak.bytes < CLIENT_COUNT * MAX_QUEUED_MESSAGES * MAX_MESSAGE_BYTES + MAX_MEMORY_BYTES
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
            for message in ("x" * MAX_MESSAGE_BYTES, b"x" * MAX_MESSAGE_BYTES, ["x" * 1024] * 1023):
                await client.send(message)
                assert int(await client.recv()) == len("".join(message) if isinstance(message, list) else message)


def frame(
    payload: bytes, opcode: int = 2, *, final: bool = True, compressed: bool = False, length: int | None = None
) -> bytes:
    """Return a client's frame, masked with zeros; `length` may announce more than it has."""
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
BOMB = compress(200 * MAX_MESSAGE_BYTES)
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
    """Send until the server closes the connection; return its close code, if there was one."""
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
    """Return a connection, and what was received after the response to its handshake."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(b"GET /ws/measure/ HTTP/1.1\r\n" + HEAD + WEBSOCKET_HEAD + b"\r\n")
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(1000)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b" 101 " in head.partition(b"\r\n")[0], head
    return sock, rest


def close_code(data: bytes) -> int | None:
    """Return the code of the first close frame in these frames, which are all short."""
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
    """Measure by how much the memory of the child processes grows at most in the block."""
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
    return 1024 * int(first_match(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()))


# Row 3: a service that drips.


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_service_that_drips(django_version: str, make_production_project: MakeProject, service: Service) -> None:
    """It delays neither the health checks nor the rest of the site."""
    project = make_production_project(starter="live", django_version=django_version)
    add_services(project, {"drips": f"{service.url}/drip/", "fine": f"{service.url}/fine/"})
    server = project.run_server(STATUS_ALLOW_LOCAL_ADDRESSES="true", ASGI_THREADS="1")
    with server as running, running.client() as client, ThreadPoolExecutor() as pool:
        for _ in range(2):
            start = time.monotonic()
            answers = [pool.submit(client.get, f"/{view}/") for view in ("sync", "async")]
            assert client.get("/").status_code == 200
            for answer in answers:
                assert answer.result().json()["services"] == {"drips": "down", "fine": "up"}
            assert time.monotonic() - start < MAX_CHECK_SECONDS
        assert service.paths.count("/drip/") == 4


# Row 4: the user's files and --overwrite-if-exists.


def overwrite_project(folder: Path, *answers: str) -> tuple[int, str]:
    """Return the exit status and the output of `cookiecutter --overwrite-if-exists` for the project `wiki`."""
    status, lines = cookiecutter(folder, "project_name=wiki", *answers, options=["--overwrite-if-exists"])
    return status, "\n".join(lines)


def test_overwriting_keeps_the_users_folders(tmp_path: Path) -> None:
    """Also those with names that the template uses itself."""
    assert overwrite_project(tmp_path)[0] == 0
    mine = [tmp_path / "wiki" / name / "mine.py" for name in ("starters", "servers", "pipelines", "wiki", "tests")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    status, said = overwrite_project(tmp_path, "starter=chat", "server=daphne", "ci=gitlab")
    assert status == 0, said
    assert [file.read_text() for file in mine] == ["mine"] * len(mine)
    assert not (tmp_path / "wiki" / "_parts").exists()


@pytest.mark.parametrize("slug", ["starters", "servers", "pipelines"])
def test_a_project_may_have_the_name_of_a_folder_of_the_template(slug: str, tmp_path: Path) -> None:
    status, lines = cookiecutter(tmp_path, f"project_slug={slug}")
    assert status == 0, lines
    assert (tmp_path / slug / slug / "settings.py").exists()


@posix
@pytest.mark.parametrize("name", ["Procfile", "wiki/settings.py", "chat", "chat/views.py", ".env", "uv.lock", "_parts"])
def test_nothing_is_written_through_a_symbolic_link(name: str, tmp_path: Path) -> None:
    link, elsewhere = tmp_path / "wiki" / name, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    for exists in (False, True):
        if exists:
            elsewhere.touch()
        status, said = overwrite_project(tmp_path, "starter=chat")
        assert status == 1
        assert f"{name} is a symbolic link" in said
        assert not elsewhere.exists() or elsewhere.read_text() == ""
        assert set((tmp_path / "wiki").rglob("*")) <= {link, *link.parents}


@posix
def test_an_env_file_that_is_there_becomes_private(tmp_path: Path) -> None:
    env = tmp_path / "wiki" / ".env"
    env.parent.mkdir()
    env.write_text("DJANGO_SECRET_KEY=mine\n")
    env.chmod(0o644)
    status, said = overwrite_project(tmp_path)
    assert status == 0, said
    assert (env.read_text(), env.stat().st_mode & 0o777) == ("DJANGO_SECRET_KEY=mine\n", 0o600)
    assert "Other users of this machine could read .env" in said
    assert ".env could be read" not in overwrite_project(tmp_path)[1]


# Row 5: the limits of sign-in.


def sign_in_status(client: httpx.Client, address: str, name: str, password: str) -> int:
    """Return the status of a sign-in from this address, behind the proxy, of somebody who is not signed in."""
    client.cookies.clear()
    headers = {"X-Forwarded-For": address, "Origin": "https://example.com"}
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/login/").text)
    form = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    return client.post("/accounts/login/", data=form, headers=headers).status_code


@pytest.mark.parametrize(("database", "django_version"), [("postgresql", "5.2"), *also_in_test_all(("sqlite", "6.1"))])
def test_passwords_from_many_addresses_and_for_many_names(
    database: str, django_version: str, make_production_project: MakeProject
) -> None:
    """One IPv6 network is one client, so is an IPv4 address in both of its forms, and names are counted together."""
    project = make_production_project(database=database, django_version=django_version)
    # Those of Django take most of a second for each password.
    settings = (
        "PASSWORD_HASHERS = [f'django.contrib.auth.hashers.{name}PasswordHasher' for name in ('MD5', 'PBKDF2')]\n"
    )
    with (project.path / "wiki" / "settings.py").open("a") as file:
        file.write(settings)
    with project.run_server() as running, running.client() as client:
        attempts = [sign_in_status(client, f"2001:db8:1:2::{n:x}", "grace", f"wrong {n}") for n in range(10)]
        assert attempts == [200] * 9 + [429]
        assert sign_in_status(client, "2001:db8:1:3::1", "grace", "wrong") == 200

        forms = ("203.0.113.9", "::ffff:203.0.113.9")
        attempts = [sign_in_status(client, forms[n % 2], "grace", f"wrong {n}") for n in range(10)]
        assert attempts == [200] * 9 + [429]

        # A user of one's own does not start the count anew.
        assert [sign_in_status(client, forms[n % 2], f"name-{n}", "wrong") for n in range(19)] == [200] * 19
        assert sign_in_status(client, forms[0], "ada", "analytical-engine") == 302
        assert sign_in_status(client, forms[0], "one name more", "wrong") == 429
        assert sign_in_status(client, forms[0], "ada", "analytical-engine") == 429
        assert sign_in_status(client, "203.0.113.77", "ada", "analytical-engine") == 302
        assert "Traceback" not in running.output


# Row 6: enumeration of accounts.


class SlowMailServer:
    """Takes 0.3 s for each mail."""

    def __init__(self) -> None:
        self.recipients: list[str] = []
        self.links: list[str] = []

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        await asyncio.sleep(0.3)
        self.recipients += envelope.rcpt_tos
        assert isinstance(envelope.content, bytes)
        self.links += re.findall(r"https://example\.com/\S+", envelope.content.decode())
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[tuple[SlowMailServer, str]]:
    handler, port = SlowMailServer(), free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, f"smtp://127.0.0.1:{port}"
    controller.stop()


USERS = [f"user-{number}@example.com" for number in range(10)]
CREATE_USERS = (
    f"for address in {USERS}: User.objects.create(username=address.partition('@')[0], email=address, password='a hash')"
)


def request_password_reset(client: httpx.Client, address: str) -> float:
    """Ask for a link to set a new password; return how many seconds the response took."""
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/password_reset/").text)
    start = time.perf_counter()
    answer = client.post(
        "/accounts/password_reset/",
        data={"email": address, "csrfmiddlewaretoken": token},
        headers={"Origin": "https://example.com"},
    )
    seconds = time.perf_counter() - start
    assert (answer.status_code, answer.headers["Location"]) == (302, "/accounts/password_reset/done/")
    assert "Server-Timing" not in answer.headers
    return seconds


@pytest.mark.parametrize(
    ("server", "database", "django_version"),
    [
        ("daphne", "sqlite", "6.1"),
        *also_in_test_all(
            ("uvicorn", "postgresql", "5.2"),
            ("hypercorn", "postgresql", "6.1"),
            ("gunicorn", "sqlite", "5.2"),
            ("granian", "sqlite", "5.2"),
        ),
    ],
)
def test_account_enumeration(
    server: str,
    database: str,
    django_version: str,
    make_production_project: MakeProject,
    mail_server: tuple[SlowMailServer, str],
) -> None:
    """No response reveals it, no user gets many mails, and no accepted one is lost at shutdown."""
    project = make_production_project(server=server, database=database, django_version=django_version)
    project.manage("shell", "--command", CREATE_USERS)
    mails, url = mail_server
    with project.run_server(EMAIL_URL=url) as running, running.client() as client:
        for _ in range(5):
            request_password_reset(client, USERS[0])
        running.wait_until(lambda: len(mails.recipients) == 3)
        strangers = [f"stranger-{number}@example.com" for number in range(10)]
        seconds = [
            (request_password_reset(client, user), request_password_reset(client, stranger))
            for user, stranger in zip(USERS, strangers, strict=True)
        ]
        known, unknown = (statistics.median(each) for each in zip(*seconds, strict=True))
        assert abs(known - unknown) < 0.1, seconds
        assert running.stop() in (0, -15), running.output
        assert "Traceback" not in running.output
    assert sorted(mails.recipients) == sorted(3 * USERS[:1] + USERS[1:])


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_account_enumeration_with_a_worker(
    django_version: str, make_production_project: MakeProject, mail_server: tuple[SlowMailServer, str]
) -> None:
    """The mail is queued in the database, so that it survives even if all processes are killed."""
    project = make_production_project(starter="live", django_version=django_version)
    project.manage("shell", "--command", CREATE_USERS)
    mails, url = mail_server
    with project.run_server(EMAIL_URL=url) as running, running.client() as client:
        request_password_reset(client, "stranger@example.com")
        for address in (*USERS[:2], *4 * USERS[2:3]):
            request_password_reset(client, address)
    with project.run_server("web", "worker", EMAIL_URL=url) as running, running.client() as client:
        running.wait_until(lambda: len(mails.recipients) == 5)
        assert mails.recipients == [*USERS[:2], *3 * USERS[2:3]]
        page = client.get(mails.links[0], follow_redirects=True)
        assert "Set password" in page.text
        assert "Traceback" not in running.output


# Row 7: WebSockets of users who signed out.


NEW_PASSWORD = "user = User.objects.get(username='joan'); user.set_password('compiler'); user.save()"
SESSION_ENDS = {
    "grace": "User.objects.filter(username='grace').update(is_active=False)",
    "joan": NEW_PASSWORD,
    "hedy": "User.objects.filter(username='hedy').delete()",
}
CREATE_MEMBERS = f"""
password = User.objects.get(username="ada").password
for name in {[*SESSION_ENDS, "mary"]}: User.objects.create(username=name, password=password)
"""


@pytest.mark.parametrize(
    ("server", "database", "django_version"),
    [
        ("uvicorn", "postgresql", "6.1"),
        *also_in_test_all(
            ("daphne", "postgresql", "5.2"),
            ("hypercorn", "sqlite", "5.2"),
            ("gunicorn", "sqlite", "6.1"),
            ("granian", "sqlite", "5.2"),
        ),
    ],
)
def test_websockets_of_signed_out_users(
    server: str, database: str, django_version: str, make_production_project: MakeProject
) -> None:
    """Signed out, deactivated, deleted or with a new password: the connection ends within 15 s, that of others does not."""
    project = make_production_project(server=server, database=database, django_version=django_version, starter="chat")
    project.manage("shell", "--command", CREATE_MEMBERS)
    with project.run_server() as running, ExitStack() as stack:
        clients = {name: stack.enter_context(running.client()) for name in ("ada", "mary", *SESSION_ENDS)}
        for number, (name, client) in enumerate(clients.items()):
            assert sign_in_status(client, f"203.0.113.{number}", name, "analytical-engine") == 302

        def end_sessions() -> None:
            project.manage("shell", "--command", "\n".join(SESSION_ENDS.values()))
            sign_out(clients["ada"])

        asyncio.run(outlive_sessions(running, clients, end_sessions))
        assert "Traceback" not in running.output


def sign_out(client: httpx.Client) -> None:
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)
    headers = {"Origin": "https://example.com"}
    answer = client.post("/accounts/logout/", data={"csrfmiddlewaretoken": token}, headers=headers)
    assert answer.status_code == 302


async def outlive_sessions(running: Server, clients: dict[str, httpx.Client], end_sessions: Callable[[], None]) -> None:
    async with AsyncExitStack() as stack:
        members = {}
        for name, client in clients.items():
            headers = {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)}
            url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
            connection = connect(url, headers=headers)
            members[name] = await stack.enter_async_context(connection)
        stay = members.pop("mary")
        await asyncio.to_thread(end_sessions)
        ended = [asyncio.create_task(member.wait_closed(), name=name) for name, member in members.items()]
        _, open_connections = await asyncio.wait(ended, timeout=15)
        assert [task.get_name() for task in open_connections] == [], running.output
        assert {name: member.close_code for name, member in members.items()} == dict.fromkeys(members, 3000)
        await stay.send('{"message": "still here"}')
        assert json.loads(await stay.recv())["user"] == "mary"


# Row 8: trusted hosts.


def test_nobody_elses_codespace_is_trusted_in_production(make_project: MakeProject) -> None:
    """With the variables of `.env`, as compose has them, but for debug mode."""
    project = make_project()
    project.environment["DJANGO_DEBUG"] = "false"
    project.manage("migrate")
    project.manage("collectstatic", "--no-input")
    strangers = {"Host": "fuzzy-8000.app.github.dev", "X-Forwarded-Proto": "https"}
    with project.run_server() as running, running.client() as client:
        assert httpx.get(running.url, headers=strangers).status_code == 400
        page = client.get("/accounts/login/", headers={"Host": "localhost"})
        token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', page.text)
        headers = {"Host": "localhost", "Origin": "https://fuzzy-8000.app.github.dev"}
        form = {"username": "a", "password": "b", "csrfmiddlewaretoken": token}
        assert client.post("/accounts/login/", data=form, headers=headers).status_code == 403
        assert client.post("/accounts/login/", data=form, headers=headers | {"Origin": "https://localhost"}).is_success


# Row 9: shared caches, and the headers of static files.

PAGES = {
    "blank": ["/", "/async/", "/sync/"],
    "wiki": ["/", "/wiki/Python", "/search/", "/wiki/nothing"],
    "chat": ["/", "/chat/lobby/"],
    "live": ["/"],
    "api": ["/", "/tokens/", "/api/docs"],
    "notifications": ["/", "/notifications/"],
    "game": ["/"],
    "assistant": ["/"],
}


@pytest.mark.parametrize(
    "answers",
    [
        {"starter": starter, "server": server, "django_version": django_version}
        for starter, server, django_version in zip(
            [*PAGES, "blank"], itertools.cycle(SERVERS), itertools.cycle(CHOICES["django_version"]), strict=False
        )
    ],
    ids=label,
)
def test_pages_in_a_shared_cache(answers: Answers, make_production_project: MakeProject) -> None:
    """Pages of users and of visitors, which depend on a cookie as well, are not cached; static files are."""
    project = make_production_project(**answers)
    paths = [*PAGES[answers["starter"]], "/accounts/password_change/", "/admin/"]
    with project.run_server() as running, running.client() as client:
        check_pages(client, paths)
        [style] = re.findall(r'href="(/static/site\.\w+\.css)"', client.get("/").text)
        sign_in(client)
        for page in check_pages(client, paths):
            assert ">ada</a>" in page or "<strong>ada</strong>" in page
        file = client.get(style)
        assert file.headers["cache-control"] == "max-age=315360000, public, immutable"
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["strict-transport-security"] == client.get("/").headers["strict-transport-security"]
        with running.client(https=False) as insecure_client:
            assert "strict-transport-security" not in insecure_client.get(style).headers
        assert "Traceback" not in running.output


def check_pages(client: httpx.Client, paths: list[str]) -> list[str]:
    pages = [client.get(path) for path in paths]
    for page in pages:
        assert {"private", "no-store"} & set(page.headers.get("cache-control", "").split(", ")), page.url
    return [page.text for page in pages]


def test_shared_cache_that_ignores_vary(make_production_project: MakeProject, tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.fail("there is no nginx") if IN_CI and sys.platform == "linux" else pytest.skip("there is no nginx")
    project, port = make_production_project(), free_port()
    with (
        project.run_server() as running,
        running.client() as signed_in,
        cache_in_front(running, port, tmp_path),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "example.com"}) as client,
    ):
        sign_in(signed_in)
        page = client.get("/", headers={"Cookie": f"sessionid={signed_in.cookies['sessionid']}"})
        assert ">ada</a>" in page.text
        assert ">ada</a>" not in client.get("/").text
        [style] = re.findall(r'href="(/static/site\.\w+\.css)"', page.text)
        assert [client.get(style).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]


@contextmanager
def cache_in_front(running: Server, port: int, folder: Path) -> Iterator[None]:
    """An nginx that caches responses for all visitors and ignores Vary."""
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
        daemon off; pid {folder}/pid; error_log stderr; user {getpass.getuser()};
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/temp;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            proxy_cache_path {folder}/cache keys_zone=pages:1m;
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass {running.url};
                    proxy_set_header Host $host;
                    proxy_set_header X-Forwarded-Proto https;
                    proxy_cache pages;
                    proxy_cache_valid 200 1m;
                    proxy_ignore_headers Vary Set-Cookie;
                    add_header X-Cache $upstream_cache_status;
                }}
            }}
        }}
    """)
    process = subprocess.Popen(["nginx", "-c", str(configuration)])
    try:
        running.wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200)
        yield
    finally:
        process.terminate()
        process.wait(15)


# Row 10: sessions and names of guests.


COUNT_ROWS = "from django.contrib.sessions.models import Session; print('rows:', Session.objects.count())"


@pytest.mark.parametrize("django_version", ["6.1", *also_in_test_all("5.2")])
def test_guests(django_version: str, make_production_project: MakeProject) -> None:
    """They have no session in the database, and a name that is unique and cannot be changed."""
    project = make_production_project(starter="chat", django_version=django_version)
    with project.run_server() as running, running.client() as client:
        names = set()
        for _ in range(300):
            client.cookies.clear()
            answer = client.get("/chat/lobby/")
            names.add(first_match(r"You are <strong>(Guest \w{8})</strong>", answer.text))
        assert len(names) == 300  # of 90,000, as many would differ in 6 of 10 tries
        [cookie] = answer.headers.get_list("Set-Cookie")
        assert {"HttpOnly", "SameSite=Lax", "Secure"} <= set(cookie.split("; "))
        guest = first_match(r"(Guest \w{8})", answer.text)
        assert guest in client.get("/chat/lobby/").text
        asyncio.run(send_as_guest(running, client.cookies["guest"], guest))
        assert project.manage("shell", "--command", COUNT_ROWS).stdout.endswith("rows: 0\n")


async def send_as_guest(running: Server, cookie: str, guest: str) -> None:
    url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
    chosen = cookie.replace(guest, "Guest 22222222")
    for value, name in ((cookie, guest), (chosen, None), ('"Guest 22222222"', None)):
        async with connect(url, headers={"Cookie": f"guest={value}"}) as member:
            await member.send('{"message": "hello"}')
            user = json.loads(await member.recv())["user"]
            assert user == name if name else user not in ("Guest 22222222", guest)


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


@on_servers("daphne", "granian")
def test_origins(server: str, make_websocket_project: Callable[[str], Project]) -> None:
    """A WebSocket is opened for the same Origins for which Django accepts a form."""
    with make_websocket_project(server).run_server(DJANGO_CSRF_TRUSTED_ORIGINS="https://*.trusted.example") as running:

        def shake_hands(origin: bytes | None, host: bytes = b"example.com", scheme: bytes = b"https") -> int:
            head = HEAD.replace(b"example.com", host).replace(b"https", scheme)
            sent = WEBSOCKET_HEAD.replace(
                b"Origin: https://example.com\r\n", b"" if origin is None else b"Origin: " + origin + b"\r\n"
            )
            return send_raw(running.port, b"GET /ws/measure/ HTTP/1.1\r\n" + head + sent + b"\r\n")[0]

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


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_urls_of_services(django_version: str, make_production_project: MakeProject, service: Service) -> None:
    """In the admin, and in rows that got into the database another way."""
    project = make_production_project(starter="live", django_version=django_version)
    local_hosts = ["127.0.0.1", "127.1", "2130706433", "0", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."]
    local_urls = {host: f"http://{host}:{service.server_port}/" for host in local_hosts}
    add_services(project, {"credentials": "http://ada:secret@example.com:1/"} | local_urls)
    project.manage("check_services", "--once")
    with project.run_server() as running, running.client() as client:
        board = client.get("/").text
        assert 'href="http://example.com:1/"' in board
        assert "secret" not in board
        assert set(client.get("/async/").json()["services"].values()) == {"down"}
        sign_in(client)
        for url in (
            "http://ada:secret@example.com/",
            "http://token@example.com/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://localhost:8000/",
            "http://169.254.169.254/latest/meta-data/",
            "ftp://example.com/",
        ):
            answer = post(client, "/admin/status/service/add/", name="new", url=url)
            assert "errorlist" in answer.text, url
        assert post(client, "/admin/status/service/add/", name="new", url="http://10.0.0.7/").status_code == 302
    assert not service.paths


def test_redirect_of_a_service(make_production_project: MakeProject, service: Service) -> None:
    """A health check does not follow a service's redirect."""
    project = make_production_project(starter="live")
    project.variables["STATUS_ALLOW_LOCAL_ADDRESSES"] = "true"
    project.__dict__.pop("environment", None)
    add_services(project, {"redirects": f"{service.url}/redirect/"})
    project.manage("check_services", "--once")
    assert service.paths == ["/redirect/"]


# Row 13: files and names of entries.


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_entries_that_are_not_what_they_seem(django_version: str, make_production_project: MakeProject) -> None:
    """A link, a FIFO, a folder, and bytes that are not UTF-8, in a file and in its name."""
    project = make_production_project(starter="wiki", django_version=django_version)
    shutil.copytree(ROOT / "tests" / "student", project.path, dirs_exist_ok=True)
    entries, secret = project.path / "entries", project.path / "secret.txt"
    secret.write_text("secret")
    (entries / "Link.md").symlink_to(secret)
    (entries / "Dangling.md").symlink_to(project.path / "new.txt")
    (entries / "Folder.md").mkdir()
    os.mkfifo(entries / "Fifo.md")
    (entries / "Latin.md").write_bytes("café".encode("latin-1"))
    (entries / os.fsdecode(b"\xff.md")).write_bytes(b"")
    not_entries = ("Link", "Dangling", "Folder", "Fifo")
    with project.run_server() as running, running.client(follow_redirects=True) as client:
        index = client.get("/")
        assert index.status_code == 200
        assert "Latin" in index.text
        assert not [title for title in not_entries if title in index.text]
        assert "caf\N{REPLACEMENT CHARACTER}" in client.get("/wiki/Latin").text
        for title in not_entries:
            assert client.get(f"/wiki/{title}").status_code == 404
        before = set(entries.iterdir())
        client.headers["Origin"] = "https://example.com"
        client.get("/accounts/login/")  # for the CSRF cookie
        for title in (*not_entries, "COM¹", "lpt³.x", "CLOCK$", "conin$", "CONOUT$", "con .x", "../up"):
            answer = post(client, "/new/", title=title, content="x")
            assert answer.status_code == 200
            assert "cannot be a title" in answer.text, title
        assert post(client, "/new/", title="Fine", content="x").url.path == "/wiki/Fine"
        assert set(entries.iterdir()) == before | {entries / "Fine.md"}
        assert secret.read_text() == "secret"
        assert not (project.path / "new.txt").exists()
        assert "Traceback" not in running.output


# Row 14: raw request targets.

# Not those that HTTP allows besides: https://www.rfc-editor.org/rfc/rfc9112#section-3.2
REQUEST_TARGETS = [
    b"@evil.example/x",
    b".evil.example/x",
    b"evil.example/x",
    b"%40evil.example/x",
    b":80@evil.example",
    b"*@evil.example",
    b"/caf\xc3\xa9?q=\xff",
]


@on_servers("daphne", "hypercorn")  # whose redirects led elsewhere
def test_request_targets_that_are_no_path(server: str, make_websocket_project: Callable[[str], Project]) -> None:
    """By plain HTTP, so that Django redirects to HTTPS: to this host, or not at all."""
    host = b"Host: example.com\r\nConnection: close\r\n\r\n"
    with make_websocket_project(server).run_server() as running:
        for target in REQUEST_TARGETS:
            assert send_raw(running.port, b"GET " + target + b" HTTP/1.1\r\n" + host)[0] == 400, target
        for target in (b"//evil.example/x", b"/@evil.example", b"/\\evil.example", b"http://evil.example/x", b"*"):
            status, head = send_raw(running.port, b"GET " + target + b" HTTP/1.1\r\n" + host)
            location = re.search(rb"(?i)^location: ?(.*)", head, re.MULTILINE)
            assert status == 400 or (location and location[1].startswith(b"https://example.com/")), target
        handshake = b"GET xws/measure/ HTTP/1.1\r\n" + HEAD + WEBSOCKET_HEAD + b"\r\n"
        assert send_raw(running.port, handshake)[0] in (400, 403)
        assert "Traceback" not in running.output


def send_raw(port: int, request: bytes) -> tuple[int, bytes]:
    """The status and the head of the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head and (part := sock.recv(1000)):
            head += part
    return int(head.split(b" ")[1]), head


# Row 15: privileges of containers.


@pytest.mark.parametrize("starter", CHOICES["starter"])
def test_containers_have_minimal_privileges(starter: str, tmp_path: Path) -> None:
    project = generate(tmp_path, project_name="wiki", starter=starter, database="postgresql", channels=True)
    services = yaml.safe_load((project.path / "compose.yaml").read_text())["services"]
    assert {"proxy", "migrate", "web", "postgres", "redis"} <= set(services)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert (service["mem_limit"], service["pids_limit"]) == ("1g", 500), name
    assert {name for name, service in services.items() if "cap_add" in service} == {"proxy", "postgres"}
    published = [port for service in services.values() for port in service.get("ports", []) if "HTTP" not in port]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_link_that_resets_a_password_is_never_in_the_log_of_production(
    make_production_project: MakeProject,
) -> None:
    project = make_production_project()
    command = "from accounts.models import User; User.objects.filter(username='ada').update(email='ada@example.com')"
    project.manage("shell", "--command", command)
    with project.run_server() as running, running.client(timeout=60) as client:
        page = client.get("/accounts/password_reset/")
        token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', page.text)
        form = {"email": "ada@example.com", "csrfmiddlewaretoken": token}
        client.post("/accounts/password_reset/", data=form, headers={"Referer": "https://example.com/"})
        running.wait_until(lambda: "Connection refused" in running.output)  # there is no mail server
        assert "/accounts/reset/" not in running.output


# Row 16: half-open connections.

HEAD_TIMEOUT_SECONDS = 3
# Where each server's timeout stands, which is too long to wait for here.
HEAD_TIMEOUT_OPTIONS = {
    "daphne": (
        "wiki/serving/graceful_shutdown.py",
        "KEEP_ALIVE_SECONDS = 75",
        f"KEEP_ALIVE_SECONDS = {HEAD_TIMEOUT_SECONDS}",
    ),
    "hypercorn": ("Procfile", "--keep-alive 75", f"--keep-alive {HEAD_TIMEOUT_SECONDS}"),
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


@pytest.mark.parametrize("server", HEAD_TIMEOUT_OPTIONS)
def test_half_open_connections_are_closed(server: str, make_websocket_project: Callable[[str], Project]) -> None:
    """Also those that send a byte now and then; a slow body is accepted."""
    project = make_websocket_project(server)
    name, old, new = HEAD_TIMEOUT_OPTIONS[server]
    edit(project.path / name, old, new)
    with project.run_server() as running:
        asyncio.run(open_half_open_connections(running.port))
        assert "Traceback" not in running.output


def test_half_open_connections_are_closed_by_the_proxy(
    make_production_project: MakeProject, run_nginx: RunNginx
) -> None:
    """uvicorn has no limit of its own."""
    with make_production_project().run_server() as running:
        port = free_port()
        limited = f"client_header_timeout {HEAD_TIMEOUT_SECONDS}s; listen 127.0.0.1:{port};"
        headers = "proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https;"
        with run_nginx(f"server {{ {limited} {headers} location / {{ proxy_pass {running.url}; }} }}"):
            running.wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200)
            asyncio.run(open_half_open_connections(port))


async def open_half_open_connections(port: int) -> None:
    start = time.monotonic()
    async with asyncio.timeout(HEAD_TIMEOUT_SECONDS + 20):
        upload = asyncio.create_task(upload_slowly(port, 2 * HEAD_TIMEOUT_SECONDS))
        waiting: list[Coroutine[Any, Any, None]] = []
        for words in list(HALF_OPEN.values()) * 100:
            # One at a time: the server does not see more than its backlog holds.
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


# Headers that servers accept from any client.

# Headers by which some server, framework or proxy once let a client choose the host, the path or the prefix.
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


@on_servers("hypercorn", "granian")
def test_headers_choose_no_url(server: str, make_websocket_project: Callable[[str], Project]) -> None:
    """Nor if a trusted proxy passes them on, as proxies do with unknown headers."""
    with make_websocket_project(server).run_server() as running:
        for name, value in FOREIGN_HEADERS:
            head = HEAD + name + b": " + value + b"\r\n"
            status, answer = send_raw(running.port, b"GET /accounts/password_change/ HTTP/1.1\r\n" + head + b"\r\n")
            assert status == 302, name
            location = re.search(rb"(?i)^location: ?(.*)\r$", answer, re.MULTILINE)
            assert location and location[1] == b"/accounts/login/?next=/accounts/password_change/", name
            head = WEBSOCKET_HEAD + head
            assert send_raw(running.port, b"GET /ws/measure/ HTTP/1.1\r\n" + head + b"\r\n")[0] == 101, name
        head = HEAD + b"Daphne-Root-Path: /x\r\n\r\n"
        assert send_raw(running.port, b"GET /x/admin/login/ HTTP/1.1\r\n" + head)[0] == 404
        assert "Traceback" not in running.output
