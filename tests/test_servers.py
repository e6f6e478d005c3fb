"""Each server, started by its Procfile line and tested over real sockets, as in production and in development."""

import asyncio
import re
import select
import signal
import socket
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import httpx
import pytest
import websockets

from tests.template import (
    SERVERS,
    Answers,
    MakeProbeProject,
    MakeProject,
    Server,
    StartRedis,
    also_in_test_all,
    connect,
    edit,
    first_match,
    free_port,
    on_each_server,
    on_servers,
)

# The keep-alive timeout of nginx and of AWS's load balancers.
PROXY_IDLE_SECONDS = 60

CONSUMER = """
from channels.generic.websocket import AsyncWebsocketConsumer


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)
"""


LOG_DISCONNECT = """
    async def disconnect(self, code):
        print("disconnected", code, flush=True)
"""


@on_each_server("blank")
def test_production(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    server = answers["server"]
    with project.run_server() as running:
        with running.client() as client:
            check_pages(client, server)
            check_static_files(client)
            check_sign_in(client)
            check_cookies_in_two_headers(running, client.cookies["sessionid"])
        check_untrusted_proxy(running)
        check_chain_of_proxies(running)
        with running.client(https=False) as client:
            check_without_proxy(client)
            status = running.stop(seconds=15)  # with a connection that is still open
        assert status in (0, -15), running.output
        assert_no_warnings(running.output)


def check_pages(client: httpx.Client, server: str) -> None:
    home = client.get("/")
    assert home.status_code == 200
    assert f"<dd>{server}</dd>" in home.text
    assert "<dd>ASGI</dd>" in home.text
    assert "Server-Timing" not in home.headers
    for path in ("/async/", "/sync/", "/robots.txt"):
        assert client.get(path).status_code == 200
    assert client.get("/favicon.ico", follow_redirects=True).headers["content-type"] == "image/svg+xml"
    assert client.get("/livez").json() == {"status": "ok", "failing": []}
    assert client.get("/readyz").json() == {"status": "ok", "failing": []}
    assert client.get("/nothing-here/").status_code == 404


def check_static_files(client: httpx.Client) -> None:
    login = client.get("/admin/", follow_redirects=True)
    for sheet in re.findall(r'href="(/static/[^"]+\.css)"', login.text):
        css = client.get(sheet)
        assert css.status_code == 200
        assert css.headers["content-type"] == 'text/css; charset="utf-8"'
        assert re.search(r"\.[0-9a-f]{12}\.css$", sheet)
        assert "immutable" in css.headers["cache-control"]
    plain = client.get(sheet, headers={"Accept-Encoding": "identity"})
    for encoding in ("gzip", "br"):
        compressed = client.get(sheet, headers={"Accept-Encoding": encoding})
        assert compressed.headers["content-encoding"] == encoding
        assert compressed.headers["vary"] == "Accept-Encoding"
        assert int(compressed.headers["content-length"]) < len(plain.content)
    assert compressed.text == plain.text  # httpx has unpacked it

    head = client.head(sheet, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(plain.content)
    for name, value in (("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")):
        cached = client.get(sheet, headers={name: plain.headers[value]})
        assert (cached.status_code, cached.content) == (304, b"")
    for wanted, part in (("bytes=5-9", plain.content[5:10]), ("bytes=0-0", plain.content[:1])):
        ranged = client.get(sheet, headers={"Range": wanted, "Accept-Encoding": "identity"})
        assert (ranged.status_code, ranged.content) == (206, part)
    assert client.get(sheet, headers={"Range": f"bytes={10**9}-"}).status_code == 416
    assert client.post(sheet).status_code == 405
    for path in ("/static/../manage.py", "/static/%2e%2e/manage.py", "/static/..%2fmanage.py", "/static//etc/passwd"):
        assert client.get(path).status_code == 404
    assert "access-control-allow-origin" not in plain.headers


def check_sign_in(client: httpx.Client) -> None:
    form = {"username": "ada", "password": "analytical-engine"}
    page = client.get("/accounts/login/")
    assert client.post("/accounts/login/", data=form).status_code == 403, "a POST without the token"
    form["csrfmiddlewaretoken"] = first_match(r'csrfmiddlewaretoken" value="(\w+)"', page.text)
    headers = {"Origin": "https://example.com"}
    wrong = client.post("/accounts/login/", data=form | {"password": "wrong"}, headers=headers)
    assert "errorlist" in wrong.text
    assert client.post("/accounts/login/", data=form, headers=headers).status_code == 302
    for path in ("/", "/async/", "/sync/"):
        assert "Sign out" in client.get(path).text
    assert client.get("/admin/").status_code == 200


def check_cookies_in_two_headers(running: Server, session: str) -> None:
    """As browsers send them over HTTP/2."""
    cookies = ["theme=dark", f"sessionid={session}", "other=1"]
    with running.client() as client:
        assert "Sign out" in client.get("/", headers=[("Cookie", cookie) for cookie in cookies]).text


def check_chain_of_proxies(running: Server) -> None:
    """The first proxy knows the visitor's scheme."""
    chains = {
        ("https,http",): 200,
        ("https, https",): 200,
        ("HTTPS",): 200,
        ("https", "http"): 200,
        ("http, https",): 301,
    }
    with running.client(https=False) as client:
        for schemes, status in chains.items():
            headers = [("Host", "example.com"), *(("X-Forwarded-Proto", scheme) for scheme in schemes)]
            assert client.get("/", headers=headers).status_code == status, schemes


def check_untrusted_proxy(running: Server) -> None:
    """By default only a proxy on this machine is trusted; X-Forwarded-Proto from any other address is ignored."""
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    for address, status in (("127.0.0.1", 200), ("127.0.0.2", 301)):
        transport = httpx.HTTPTransport(local_address=address)
        with running.client(https=False, transport=transport, headers=headers) as client:
            assert client.get("/").status_code == status


def check_without_proxy(client: httpx.Client) -> None:
    """Without X-Forwarded-Proto: https a request is redirected to HTTPS; health checks are not."""
    redirect = client.get("/", headers={"Host": "example.com"})
    assert (redirect.status_code, redirect.headers["location"]) == (301, "https://example.com/")
    assert client.get("/", headers={"Host": "evil.example", "X-Forwarded-Proto": "https"}).status_code == 400
    for path in ("/livez", "/readyz"):
        assert client.get(path, headers={"Host": "10.0.0.7"}).status_code == 200


def assert_no_warnings(output: str) -> None:
    """There are no warnings but those that the requests above cause on purpose."""
    meant = r"^INFO |\[INFO\]|AXES: |django\.request \[\w+\]: (Not Found: /(nothing|static|manage)|Forbidden|Bad Request)|django\.security\.|Forbidden \(CSRF"
    lines = [line for line in output.splitlines() if not re.search(meant, line)]
    bad = [line for line in lines if re.search(r"warn|error|traceback|exception|unsupported", line, re.IGNORECASE)]
    assert not bad, output


@pytest.mark.parametrize("server", SERVERS)
def test_development(server: str, make_project: MakeProject) -> None:
    """The command that the README gives for development, with the admin in its own style."""
    project = make_project(server=server)
    project.manage("migrate")
    with project.run_dev_server() as running, running.client(https=False) as client:
        assert "is up" in client.get("/").text
        login = client.get("/admin/login/")
        for sheet in re.findall(r'href="(/static/[^"]+\.css)"', login.text):
            assert client.get(sheet).status_code == 200
        assert running.output.count("/admin/login/") == 1, running.output
        icon = client.get("/favicon.ico", follow_redirects=True)
        assert icon.headers["content-type"] == "image/svg+xml"
        assert client.get("/robots.txt").text.startswith("User-agent: *\nDisallow: /")
        template = project.path / "pages" / "templates" / "pages" / "home.html"
        edit(template, "is up", "was changed")
        running.wait_until(lambda: "was changed" in client.get("/").text)


def test_idle_connections_outlast_those_of_a_proxy(make_project: MakeProject) -> None:
    """Otherwise the proxy would send a request on one that was just closed. All servers are tested at once, to wait once."""
    with ExitStack() as stack:
        ports = {}
        for server in SERVERS:
            project = make_project(server=server, project_name=f"site_{server}").in_production()
            ports[server] = stack.enter_context(project.run_server()).port
        opened = {}
        for server, port in ports.items():
            connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=10)))
            assert get_status(connection) == 200
            opened[connection] = server
        closed = wait_until_closed(opened, PROXY_IDLE_SECONDS + 5)
        assert set(closed) <= {"granian"}
        # Its command takes no more than 60 s, as docs/explanation/servers.md says.
        assert closed.get("granian", 60) > 55
        for connection, server in opened.items():
            assert server in closed or get_status(connection) == 200


def get_status(connection: HTTPConnection) -> int:
    connection.request("GET", "/livez")
    response = connection.getresponse()
    response.read()
    return response.status


def wait_until_closed(opened: dict[HTTPConnection, str], seconds: float) -> dict[str, float]:
    """Return which servers closed their connection within this time, and after how many seconds."""
    closed: dict[str, float] = {}
    start = time.monotonic()
    while (left := start + seconds - time.monotonic()) > 0:
        silent = {connection.sock: server for connection, server in opened.items() if server not in closed}
        for sock in select.select(silent, [], [], left)[0]:
            assert sock.recv(1000) == b""
            closed[silent[sock]] = time.monotonic() - start
    return closed


@on_servers("uvicorn", "daphne", "granian")
def test_streams(server: str, make_probe_project: MakeProbeProject) -> None:
    """HEAD of an endless stream returns at once, and an event stream is closed when its client leaves."""
    with (
        make_probe_project(server).run_server() as running,
        closing(HTTPConnection("127.0.0.1", running.port, timeout=5)) as connection,
    ):
        connection.connect()
        opened = connection.sock
        for path in ("stream", "event_stream", "large_stream"):
            headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
            connection.request("HEAD", f"/probe/{path}/", headers=headers)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b""), path
            assert get_status(connection) == 200, path
            assert connection.sock is opened, path
        for event_bytes in (1, 1_000_000):  # with the larger ones the server waits for the client
            leave_stream(running, event_bytes)
        assert "Traceback" not in running.output


def leave_stream(running: Server, event_bytes: int) -> None:
    """Close a stream's connection while the server waits for something to send, or for the client to read."""
    closed = f"closed a stream of {event_bytes} bytes and 0 users"
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as client:
        head = "Host: example.com\r\nX-Forwarded-Proto: https\r\n"
        client.sendall(f"GET /probe/watched_stream/?size={event_bytes} HTTP/1.1\r\n{head}\r\n".encode())
        received = b""
        while b"data: x" not in received or (event_bytes == 1 and not received.endswith(b": keep-alive\n\n\r\n")):
            received += client.recv(1000)
        assert closed not in running.output
    running.wait_until(lambda: closed in running.output, seconds=5)


@pytest.mark.parametrize("server", SERVERS)
def test_websockets(server: str, make_production_project: MakeProject) -> None:
    project = make_production_project(server=server, channels=True)
    (project.path / "pages" / "consumers.py").write_text(CONSUMER)
    routing = project.path / "wiki" / "routing.py"
    edit(routing, '    re_path("", not_found)', '    path("ws/echo/", Echo.as_asgi()),\n    re_path("", not_found)')
    edit(routing, "import re_path", "import path, re_path\nfrom pages.consumers import Echo")
    with project.run_server() as running:
        asyncio.run(exchange_messages(f"ws://127.0.0.1:{running.port}"))
        assert running.stop(seconds=15) in (0, -15), running.output
        assert "Traceback" not in running.output


async def exchange_messages(url: str) -> None:
    async with connect(f"{url}/ws/echo/") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.send(b"\x00\xff")
        assert await socket.recv() == b"\x00\xff"
        await socket.send("x" * 1_000_000)
        assert len(await socket.recv()) == 1_000_000
        await socket.send("x" * 1_100_000)
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
    for path, origin in (("/ws/echo/", "https://evil.example"), ("/ws/nothing/", "https://example.com")):
        with pytest.raises(websockets.InvalidStatus):
            await connect(f"{url}{path}", origin=origin)


def test_pings_of_hypercorn(make_production_project: MakeProject) -> None:
    """A client that answers no pings is disconnected, and no client delays shutdown."""
    project = make_production_project(server="hypercorn", channels=True)
    (project.path / "pages" / "consumers.py").write_text(CONSUMER + LOG_DISCONNECT)
    routing = project.path / "wiki" / "routing.py"
    edit(routing, '    re_path("", not_found)', '    path("ws/echo/", Echo.as_asgi()),\n    re_path("", not_found)')
    edit(routing, "import re_path", "import path, re_path\nfrom pages.consumers import Echo")
    edit(project.path / "hypercorn.conf.py", "websocket_ping_interval = 20", "websocket_ping_interval = 1")
    with project.run_server() as running:
        asyncio.run(answer_pings_or_not(running))
        start = time.monotonic()
        assert running.stop(seconds=15) == 0, running.output
        assert time.monotonic() - start < 5
        assert "Traceback" not in running.output


async def answer_pings_or_not(running: Server) -> None:
    url = f"ws://127.0.0.1:{running.port}/ws/echo/"
    async with connect(url, ping_interval=None) as present, connect(url, ping_interval=None) as vanished:
        vanished.transport.pause_reading()
        await asyncio.to_thread(running.wait_until, lambda: running.output.count("disconnected") == 1, 10)
        await present.send("hello")
        assert await present.recv() == "hello"
        vanished.transport.abort()


def test_runserver_speaks_websockets(make_project: MakeProject) -> None:
    project = make_project(channels=True)
    project.manage("migrate")
    port = free_port()
    with project.run_process([str(project.python), "manage.py", "runserver", "--noreload", str(port)], port) as running:
        with running.client(https=False) as client:
            assert "<dd>ASGI</dd>" in client.get("/").text
            assert client.get("/nothing/").status_code == 404
        for path in (" / ", " /nothing/ "):
            assert running.output.count(path) == 1, running.output
        with pytest.raises(websockets.InvalidStatus) as refused:
            asyncio.run(open_and_close(f"ws://127.0.0.1:{port}/ws/nothing/"))
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("server", ["uvicorn", "granian", *also_in_test_all("hypercorn", "gunicorn")])
def test_runserver_speaks_asgi(server: str, make_project: MakeProject) -> None:
    """It does without Channels, too: over WSGI an event stream would never begin, and its thread never end."""
    project = make_project(server=server, starter="live")
    project.manage("migrate")
    port = free_port()
    with (
        project.run_process([str(project.python), "manage.py", "runserver", "--noreload", str(port)], port) as running,
        running.client(https=False, timeout=5) as client,
        client.stream("GET", "/events/") as stream,
    ):
        assert next(stream.iter_lines()) == ": keep-alive"
        assert "ASGI/Daphne" in running.output


async def open_and_close(url: str) -> None:
    async with connect(url, host="localhost", origin="http://localhost", headers={"X-Forwarded-Proto": "http"}):
        pass


def test_readyz_reports_redis_outage(make_production_project: MakeProject, redis: StartRedis) -> None:
    """During an outage of Redis /readyz names it, and /livez succeeds."""
    with redis() as (url, process):
        project = make_production_project(server="uvicorn", channels=True)
        with project.run_server(REDIS_URL=url) as running, running.client() as client:
            assert client.get("/readyz").json() == {"status": "ok", "failing": []}
            process.send_signal(signal.SIGSTOP)  # it accepts data but does not respond
            hangs = client.get("/readyz", timeout=5)
            assert (hangs.status_code, hangs.json()["failing"]) == (503, ["channel layer"])
            process.send_signal(signal.SIGCONT)
            running.wait_until(lambda: client.get("/readyz").status_code == 200, seconds=5)
            process.terminate()
            process.wait(10)
            away = client.get("/readyz")
            assert (away.status_code, away.json()["failing"]) == (503, ["channel layer"])
            assert client.get("/livez").status_code == 200
