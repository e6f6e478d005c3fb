"""Restarts, killed processes, outages and bad clients, on each server by its Procfile line, under steady load."""

import asyncio
import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import httpx
import pytest
import websockets

from tests.template import (
    MakeProbeProject,
    MakeProject,
    PostgresServer,
    RunNginx,
    Server,
    StartRedis,
    connect,
    edit,
    first_match,
    free_port,
    on_servers,
)

StartProxy = Callable[[list[int]], AbstractContextManager[tuple[str, Callable[[], str]]]]

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


@pytest.fixture
def nginx(run_nginx: RunNginx) -> StartProxy:
    """`with nginx(ports) as (url, errors)`: a reverse proxy in front of these servers, and what gives its error log.

    It opens a connection for each request, and does not retry with the other server. Below /kept/ it retries, as by
    default, and uses persistent connections.
    """

    @contextmanager
    def start(ports: list[int]) -> Iterator[tuple[str, Callable[[], str]]]:
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
    """Clients that send requests continuously; `results` counts their results by path and status or error."""

    def __init__(self, url: str, paths: list[str]) -> None:
        self.url, self.paths = url, paths
        self.results: dict[tuple[str, int | str], int] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.answered = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.tasks = [asyncio.create_task(self.send_continuously(path)) for path in self.paths]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def send_continuously(self, path: str) -> None:
        async with httpx.AsyncClient(base_url=self.url, headers=HEADERS, timeout=20) as client:
            while True:
                try:
                    result: int | str = (await client.get(path)).status_code
                except httpx.TransportError as error:
                    result = repr(error)
                self.results[path, result] = self.results.get((path, result), 0) + 1
                self.answered.set()
                await asyncio.sleep(0.02)

    async def wait_for_requests(self, times: int = 3) -> None:
        """Wait until each path had so many more results; the first may be of a request that was sent before."""

        def count(path: str) -> int:
            return sum(seen for (each, _), seen in self.results.items() if each == path)

        wanted = {path: count(path) + times for path in self.paths}
        async with asyncio.timeout(30):
            while any(count(path) < least for path, least in wanted.items()):
                self.answered.clear()
                await self.answered.wait()

    def failed(self) -> dict[tuple[str, int | str], int]:
        return {key: times for key, times in self.results.items() if key[1] != 200}


@on_servers("uvicorn", "granian")
def test_rolling_restart(server: str, make_probe_project: MakeProbeProject, nginx: StartProxy) -> None:
    """Two processes behind a proxy are replaced in turn, and neither drops a request in progress.

    While one is down it refuses connections, so a proxy that may retry with the other one has a response for each request.
    """
    project = make_probe_project(server)
    ports = [free_port(), free_port()]
    paths = ["count", "async_count", "slow"]
    with ExitStack() as stack, nginx(ports) as (url, errors):
        running = [stack.enter_context(project.run_server(port=port)) for port in ports]

        def replace(number: int) -> None:
            running[number].stop(15)
            running[number] = stack.enter_context(project.run_server(port=ports[number]))

        async def restart() -> Load:
            async with Load(url, [f"{kept}/probe/{path}/" for kept in ("", "/kept") for path in paths]) as load:
                for number in (0, 1):
                    await load.wait_for_requests()
                    await asyncio.to_thread(replace, number)
                await load.wait_for_requests()
            return load

        load = asyncio.run(restart())
        assert {key for key in load.failed() if key[0].startswith("/kept") or key[1] != 502} == set()
        assert {path for path, result in load.results if result == 200} == set(load.paths)
        failures = errors().splitlines()
        assert len(failures) >= sum(load.failed().values())
        dropped = [line for line in failures if "connect() failed (111: Connection refused)" not in line]
        # Almost always one of these is in flight at shutdown: it is completed.
        assert [line for line in dropped if '"GET /probe/slow/' in line] == []
        # The kernel resets a connection that the server has not accepted when it closes its socket, and a connection that is
        # kept open may be closed in the moment in which the proxy sends the next request.
        assert len([line for line in dropped if '"GET /kept/' not in line]) <= 2, dropped


@on_servers("uvicorn", "daphne", "hypercorn")
def test_no_connection_is_accepted_during_shutdown(server: str, make_probe_project: MakeProbeProject) -> None:
    """The server refuses connections while it completes requests in flight, so a proxy can use another server."""
    head = b"Host: example.com\r\nX-Forwarded-Proto: https\r\n\r\n"
    with make_probe_project(server).run_server() as running, ExitStack() as opened:

        def send(path: bytes) -> socket.socket:
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=1))
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\n" + head)
            return sock

        announced = send(b"/probe/announced/")
        running.wait_until(lambda: "in the view" in running.output)
        running.process.terminate()
        with pytest.raises(ConnectionRefusedError):
            while True:
                with suppress(ConnectionResetError):  # at the moment of the shutdown, as is the empty response
                    assert re.match(rb"HTTP/1.1 200|$", send(b"/livez").recv(100))
        assert select.select([announced], [], [], 0)[0] == []
        announced.settimeout(10)
        assert announced.recv(100).startswith(b"HTTP/1.1 200")


@on_servers("daphne", "granian")
def test_a_broken_urlconf_stops_startup(server: str, make_project: MakeProject) -> None:
    """The error does not wait for the first request, after a deployment was reported as successful."""
    project = make_project(server=server).in_production()
    urls = project.path / "pages" / "urls.py"
    urls.write_text(urls.read_text() + "\nimport is_not_there\n")
    with pytest.raises(AssertionError, match="The server ended with [1-9]") as ended, project.run_server():
        pass
    assert "No module named 'is_not_there'" in str(ended.value)


@on_servers("uvicorn", "daphne")
def test_static_files_are_not_read_after_a_disconnect(server: str, make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project(server)
    size = 300_000_000
    with (project.path / "staticfiles" / "film.bin").open("wb") as film:
        film.truncate(size)
    with project.run_server() as running, running.client() as client:
        pid = client.get("/probe/state/").json()["process"]

        def bytes_read() -> int:
            return int(first_match(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text()))

        def is_open() -> bool:
            links = Path(f"/proc/{pid}/fd").iterdir()
            return any(link.is_symlink() and "film.bin" in os.readlink(link) for link in links)

        before = bytes_read()
        with client.stream("GET", "/static/film.bin") as response:
            parts = response.iter_raw()  # this reference keeps the connection open
            next(parts)
            assert is_open()
        running.wait_until(lambda: not is_open())
        assert bytes_read() - before < size / 2
        assert client.get("/livez").status_code == 200
        assert "Traceback" not in running.output


@pytest.mark.parametrize(
    "server", ["uvicorn", "gunicorn", "granian"]
)  # daphne has one process; for hypercorn, see below
def test_killed_worker(server: str, make_probe_project: MakeProbeProject) -> None:
    """A killed process is replaced, and the others respond meanwhile."""
    with make_probe_project(server).run_server(WEB_CONCURRENCY="2") as running, running.client() as client:

        def processes() -> set[int]:
            seen = set()
            for _ in range(40):
                with suppress(httpx.TransportError):  # the connection to the killed process
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


def test_killed_worker_of_hypercorn(make_probe_project: MakeProbeProject) -> None:
    """hypercorn does not replace the process but exits, so that its process manager restarts it."""
    with make_probe_project("hypercorn").run_server(WEB_CONCURRENCY="2") as running, running.client() as client:
        os.kill(client.get("/probe/state/").json()["process"], signal.SIGKILL)
        running.process.wait(15)


@on_servers("uvicorn", "granian")
def test_postgresql_outage(server: str, own_postgresql: PostgresServer, make_probe_project: MakeProbeProject) -> None:
    """Requests fail during the outage only, and the web process is not restarted."""
    project = make_probe_project(server, database_url=own_postgresql.get_uri("postgres"))
    with project.run_server() as running, running.client() as client:
        asyncio.run(request_during_outage(running, client, own_postgresql))


async def request_during_outage(running: Server, client: httpx.Client, database: PostgresServer) -> None:
    """Send requests before, during and after an outage of PostgreSQL."""
    async with Load(running.url, ["/probe/count/", "/probe/async_count/"] * 4) as load:
        await load.wait_for_requests()
        assert load.failed() == {}
        await asyncio.to_thread(database.stop)
        load.results.clear()
        away = await asyncio.to_thread(client.get, "/readyz")
        assert (away.status_code, away.json()["failing"]) == (503, ["database default"])
        assert (await asyncio.to_thread(client.get, "/livez")).status_code == 200
        await load.wait_for_requests()
        assert {result for _, result in load.results} == {500}
        await asyncio.to_thread(database.start)
        back = await asyncio.to_thread(client.get, "/readyz")
        assert back.status_code == 200
        await load.wait_for_requests(len(load.paths))  # for requests that were sent during the outage
        load.results.clear()
        await load.wait_for_requests()
        assert load.failed() == {}
        assert len(load.results) == 2


@on_servers("daphne", "hypercorn")
def test_redis_outage(server: str, make_production_project: MakeProject, redis: StartRedis) -> None:
    """During an outage of Redis only /readyz fails, and the chat works again afterwards."""
    project = make_production_project(server=server, starter="chat", channels=True)
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


async def exchange(running: Server) -> bool:
    """Whether a member of a room receives the message of another."""
    url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
    with suppress(websockets.WebSocketException):  # as right after the outage
        async with asyncio.timeout(20), connect(url) as ada, connect(url) as grace:
            await ada.send('{"message": "hello"}')
            return '"hello"' in str(await grace.recv())
    return False


@on_servers("uvicorn", "daphne", "granian")
def test_bad_clients(server: str, make_probe_project: MakeProbeProject) -> None:
    """Two thousand silent connections, slow ones and invalid requests do not block others."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with make_probe_project(server).run_server() as running, ExitStack() as stack, running.client(timeout=10) as client:

        def say(words: bytes) -> socket.socket:
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
        for words in too_long if server != "daphne" else ():  # which calls Django after the whole body
            answer = say(b"POST /accounts/login/ HTTP/1.1\r\nHost: example.com\r\n" + words).recv(1000)
            assert re.match(rb"HTTP/1.1 (413|400) ", answer), answer
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        for path in ("/", "/livez", "/probe/count/", "/probe/async_count/"):
            assert client.get(path).status_code == 200
        assert "Traceback" not in running.output


@on_servers("uvicorn", "daphne", "granian")
def test_body_over_the_limit(server: str, make_probe_project: MakeProbeProject) -> None:
    """The server rejects it before all of it was sent, with or without Content-Length."""
    project = make_probe_project(server)
    asgi = project.path / "wiki" / "asgi.py"
    edit(asgi, "limit=100 * 1024 * 1024", "limit=100_000")
    with project.run_server() as running, running.client() as client:
        assert client.post("/probe/upload/", files={"file": b"x" * 90_000}).status_code == 200
        for chunked in (False, True):
            status, sent = post_without_end(running.port, chunked)
            assert status == b"413"
            assert sent < 50_000_000 or server == "daphne"  # which calls Django after the whole body
        assert client.get("/livez").status_code == 200
        assert "Traceback" not in running.output


def post_without_end(port: int, chunked: bool) -> tuple[bytes, int]:
    """Send 100 MB, or until there is a response; return its status, and how many bytes were sent."""
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
    head = b"POST /probe/upload/ HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\n" + length + b"\r\n\r\n"
    block = b"x" * 100_000
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(head)
        with suppress(ConnectionError):  # the server has responded and closed
            while sent < 100_000_000 and not select.select([sock], [], [], 0)[0]:
                sock.sendall(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                sent += len(block)
            if chunked and sent == 100_000_000:
                sock.sendall(b"0\r\n\r\n")
        return sock.recv(1000).split(b" ")[1], sent
