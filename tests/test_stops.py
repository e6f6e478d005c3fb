"""Graceful shutdown of each server: SIGTERM to its own process, as a container's init sends it, with a client connected.

The table in docs/explanation/servers.md, which `make stop-table` writes, shows the results.
"""

import asyncio
import os
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
import yaml
from filelock import FileLock
from h2.connection import H2Connection
from h2.events import DataReceived

from tests.template import (
    PAGES,
    ROOT,
    SERVERS,
    MakeProbeProject,
    MakeProject,
    Project,
    Server,
    also_in_test_all,
    connect,
    edit,
    first_match,
    free_port,
    generate,
    on_servers,
)

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}
HEAD = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
GRACE_PERIOD_SECONDS = 10
# For a loaded machine.
MARGIN_SECONDS = 5
# Some servers raise the signal again after they have handled it.
STATUSES = {"uvicorn": -15, "daphne": 0, "hypercorn": 0, "gunicorn": 0, "granian": 0}
# 1012 is "service restart"; granian just leaves.
CLOSE_CODES = {"uvicorn": 1012, "daphne": 1012, "hypercorn": 1012, "gunicorn": 1012, "granian": None}
PAGE = PAGES["servers.md"]
WRITES_TABLE = bool(os.environ.get("WRITE_STOP_TABLE"))
LARGE_BYTES = 20_000_000

Stop = Callable[[], Coroutine[Any, Any, None]]
Case = Callable[[Server, Stop], Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_connection(
    running: Server, path: str, head: str = "", method: str = "GET"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection and send a request. The small buffer leaves unread data with the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**16)
    writer.write(f"{method} {path} HTTP/1.1\r\n{HEAD}{head}\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def nothing(running: Server, stop: Stop) -> None:
    await stop()


async def idle_connection(running: Server, stop: Stop) -> None:
    async with open_connection(running, "/livez") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await stop()


async def request_in_flight(running: Server, stop: Stop) -> None:
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS, timeout=30) as client:
        answer = asyncio.create_task(client.get("/probe/announced/"))
        await asyncio.to_thread(running.wait_until, lambda: "in the view" in running.output)
        await stop()
        assert ((await answer).status_code, (await answer).text) == (200, "announced")


async def slow_upload(running: Server, stop: Stop) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 1000 + b"\r\n--b--\r\n"
    head = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n"
    async with open_connection(running, "/probe/upload/", head, "POST") as (reader, writer):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(body[:500])
        stopping = asyncio.create_task(stop())
        await asyncio.sleep(2)
        writer.write(body[500:])
        answer = await reader.read()
        assert b" 200 " in answer.partition(b"\r\n")[0]
        assert b'"size": 1000' in answer
        await stopping


async def slow_download(running: Server, stop: Stop) -> None:
    async with open_connection(running, "/probe/large_stream/") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(stop())
        await asyncio.sleep(2)
        size = 0
        while part := await reader.read(100_000):
            size += len(part)
        assert size > LARGE_BYTES
        await stopping


async def stalled_download(running: Server, stop: Stop) -> None:
    async with open_connection(running, "/probe/large_stream/") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await stop()


async def event_streams(running: Server, stop: Stop) -> None:
    async with AsyncExitStack() as opened:

        async def open_stream() -> None:
            reader, _ = await opened.enter_async_context(open_connection(running, "/probe/event_stream/"))
            await reader.readuntil(b"data: ")

        for _ in range(10):  # fewer than a listener queues
            await asyncio.gather(*[open_stream() for _ in range(50)])
        await stop()


async def websocket(running: Server, stop: Stop) -> None:
    async with connect(f"ws://127.0.0.1:{running.port}/ws/count/") as member:
        await member.send("{}")
        assert await member.recv()
        await stop()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await member.recv()
        close_frame = closed.value.rcvd
        assert (close_frame.code if close_frame else None) == CLOSE_CODES[running.name]


CASES = {
    "nothing": nothing,
    "an idle keep-alive connection": idle_connection,
    "a request that takes two seconds": request_in_flight,
    "an upload that takes two seconds": slow_upload,
    "a download that takes two seconds": slow_download,
    "a download that the client does not read": stalled_download,
    "500 event streams": event_streams,
    "a WebSocket": websocket,
}


@pytest.mark.parametrize("server", SERVERS)
def test_stop(server: str, make_probe_project: MakeProbeProject, python: str) -> None:
    """In-flight requests complete, and nothing delays the exit for longer than the grace period."""
    measured = asyncio.run(stop_in_each_case(make_probe_project(server), server))
    statuses = {case: status for case, (status, _) in measured.items()}
    assert statuses == dict.fromkeys(CASES, STATUSES[server])
    durations = {case: seconds for case, (_, seconds) in measured.items()}
    assert max(durations.values()) < GRACE_PERIOD_SECONDS + MARGIN_SECONDS, durations
    if WRITES_TABLE and python == "image":
        write_column(server, measured)
    documented = read_table()[server]
    assert {case: takes_long(seconds) for case, seconds in durations.items()} == {
        case: takes_long(float(cell.split(", ")[1].removesuffix(" s"))) for case, cell in documented.items()
    }, (durations, documented)


def takes_long(seconds: float) -> bool:
    """Whether the grace period was used up."""
    return seconds > GRACE_PERIOD_SECONDS - 2


async def stop_in_each_case(project: Project, server: str) -> dict[str, tuple[int, float]]:
    """Stop a process for each case, all at the same time: {case: (exit status, seconds)}."""
    cases = CASES.values()
    results = await asyncio.gather(*[asyncio.to_thread(stop_in_case, project, server, case) for case in cases])
    return dict(zip(CASES, results, strict=True))


def stop_in_case(project: Project, server: str, case: Case, processes: int = 1) -> tuple[int, float]:
    tls_port = free_port()
    command = ["sh", "-c", project.procfile()["web"]]
    variables = {"TLS_PORT": str(tls_port), "WEB_CONCURRENCY": str(processes)}
    with project.run_process(command, free_port(), **variables) as running:
        running.name, running.tls_port = server, tls_port
        running.wait_until(lambda: processes == 1 or count_processes(running) == processes)
        durations: list[float] = []

        async def stop() -> None:
            start = time.monotonic()
            if processes == 1:
                running.process.terminate()
            else:
                os.killpg(running.process.pid, signal.SIGTERM)
            await asyncio.to_thread(running.process.wait, 45)
            durations.append(time.monotonic() - start)

        asyncio.run(case(running, stop))
        assert "Traceback" not in running.output, f"{case.__name__}:\n{running.output}"
        return running.process.returncode, durations[0]


def count_processes(running: Server) -> int:
    headers = HEADERS | {"Connection": "close"}
    return len({httpx.get(f"{running.url}/probe/state/", headers=headers).json()["process"] for _ in range(20)})


@pytest.mark.parametrize("server", ["gunicorn", "granian", *also_in_test_all("uvicorn", "hypercorn")])  # daphne has one
def test_stop_of_all_processes(server: str, make_probe_project: MakeProbeProject) -> None:
    """Each of the server's processes gets the signal, as from systemd."""
    status, seconds = stop_in_case(make_probe_project(server), server, request_in_flight, processes=2)
    assert status == 0
    assert seconds < MARGIN_SECONDS


def http2_client(running: Server) -> httpx.AsyncClient:
    url = f"https://127.0.0.1:{running.tls_port}"
    return httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=30, verify=False, http2=True)


async def idle_http2_connection(running: Server, stop: Stop) -> None:
    async with http2_client(running) as client:
        assert (await client.get("/livez")).http_version == "HTTP/2"
        await stop()


async def stream_over_http2(running: Server, stop: Stop) -> None:
    """A request in flight and an event stream in one connection: the first completes, the second is cut off."""
    async with http2_client(running) as client, client.stream("GET", "/probe/event_stream/") as response:
        assert response.http_version == "HTTP/2"
        lines = response.aiter_lines()
        assert "data: 0" in [await anext(lines) for _ in range(3)]
        answer = asyncio.create_task(client.get("/probe/announced/"))
        await asyncio.to_thread(running.wait_until, lambda: "in the view" in running.output)
        stopping = asyncio.create_task(stop())
        assert (await answer).text == "announced"
        await stopping


async def closed_streams_over_http2(running: Server, stop: Stop) -> None:
    """An event stream is closed when its client resets it, and when its connection ends. (httpx resets no stream.)"""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", running.tls_port, ssl=context)
    connection = H2Connection()
    connection.initiate_connection()
    # The first is more than the client lets the server send.
    event_bytes = {1: 1_000_000, 3: 1}
    for stream, size in event_bytes.items():
        path = f"/probe/watched_stream/?size={size}"
        request = {":method": "GET", ":scheme": "https", ":authority": "example.com", ":path": path}
        connection.send_headers(stream, list(request.items()), end_stream=True)
    writer.write(connection.data_to_send())
    received: set[int] = set()
    while received != {*event_bytes}:
        events = connection.receive_data(await reader.read(65536))
        received |= {
            event.stream_id for event in events if isinstance(event, DataReceived) and b"data: x" in event.data
        }
    connection.reset_stream(1)
    writer.write(connection.data_to_send())
    await asyncio.to_thread(running.wait_until, lambda: "closed a stream of 1000000 bytes" in running.output, 5)
    assert "closed a stream of 1 bytes" not in running.output
    writer.transport.abort()
    await asyncio.to_thread(running.wait_until, lambda: "closed a stream of 1 bytes" in running.output, 5)
    await stop()


async def download_over_http2(running: Server, stop: Stop) -> None:
    """It completes, and so does another client's request in flight on another connection."""
    async with http2_client(running) as client, http2_client(running) as other:
        async with client.stream("GET", "/probe/large_stream/") as response:
            answer = asyncio.create_task(other.get("/probe/announced/"))
            await asyncio.to_thread(running.wait_until, lambda: "in the view" in running.output)
            stopping = asyncio.create_task(stop())
            assert sum([len(part) async for part in response.aiter_raw()]) > LARGE_BYTES
        assert (await answer).text == "announced"
    await stopping


HTTP2_CASES = [idle_http2_connection, stream_over_http2, closed_streams_over_http2, download_over_http2]
# How these servers listen with TLS, besides the port on which the tests wait for them.
ADD_TLS = {
    "daphne": ("--bind 0.0.0.0", "--bind 127.0.0.1 --endpoint ssl:$TLS_PORT:privateKey=key.pem:certKey=crt.pem"),
    "hypercorn": (
        "--bind 0.0.0.0:${PORT:-8000}",
        "--insecure-bind 127.0.0.1:$PORT --bind 127.0.0.1:$TLS_PORT --certfile crt.pem --keyfile key.pem",
    ),
}


@pytest.mark.parametrize("server", ADD_TLS)
def test_stop_over_http2(
    server: str, make_probe_project: MakeProbeProject, certificate: Callable[[Path], None]
) -> None:
    project = make_probe_project(server)
    edit(project.path / "Procfile", *ADD_TLS[server])
    certificate(project.path)
    with ThreadPoolExecutor() as threads:
        for status, seconds in threads.map(partial(stop_in_case, project, server), HTTP2_CASES):
            assert status == 0
            assert seconds < GRACE_PERIOD_SECONDS + MARGIN_SECONDS


TABLE = re.compile(r"(?<=<!-- made by `make stop-table` -->\n).*?(?=<!-- end -->)", re.DOTALL)


def read_table() -> dict[str, dict[str, str]]:
    """The table of the page: {server: {case: cell}}."""
    [table] = TABLE.findall(PAGE.read_text())
    lines = table.splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {server: {row[0]: row[number] for row in rows} for number, server in enumerate(header[1:], 1)}


def write_column(server: str, measured: dict[str, tuple[int, float]]) -> None:
    with FileLock(ROOT / "build" / "stop-table.lock"):
        table = read_table()
        table[server] = {case: f"{status}, {seconds:.1f} s" for case, (status, seconds) in measured.items()}
        rows = [["open at shutdown", *SERVERS], ["---"] * (len(SERVERS) + 1)]
        rows += [[case, *(table[each].get(case, "") for each in SERVERS)] for case in CASES]
        text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        PAGE.write_text(TABLE.sub(lambda _: text, PAGE.read_text()))


def test_containers_are_given_more_time_than_the_grace_period(tmp_path: Path) -> None:
    project = generate(tmp_path, project_name="wiki")
    web = yaml.safe_load((project.path / "compose.yaml").read_text())["services"]["web"]
    assert int(web["stop_grace_period"].removesuffix("s")) > GRACE_PERIOD_SECONDS + MARGIN_SECONDS
    manifest = (ROOT / "kubernetes" / "{{cookiecutter.__folder}}" / "deployment.yaml").read_text()
    seconds = int(first_match(r"terminationGracePeriodSeconds: (\d+)", manifest))
    assert seconds > GRACE_PERIOD_SECONDS + MARGIN_SECONDS


@on_servers("uvicorn", "granian")
def test_access_log_is_whole_at_a_stop(server: str, make_production_project: MakeProject) -> None:
    """Of requests that end just before, on two processes where the server has them; no line is cut or mixed."""
    project = make_production_project(server=server)
    with project.run_server(WEB_CONCURRENCY="1" if server == "daphne" else "2") as running:
        with ThreadPoolExecutor(8) as threads, running.client() as client:
            ids = [f"request-{number}" for number in range(400)]
            headers = [{"X-Request-ID": each, "Connection": "close"} for each in ids]
            assert {each.status_code for each in threads.map(lambda own: client.get("/", headers=own), headers)} == {
                200
            }
        running.stop()
        lines = [line for line in running.output.splitlines() if "serving.monitoring" in line]
    shape = r"(?:\S+ web\.1 +\| )?INFO wiki\.serving\.monitoring \[(request-\d+)\]: GET / 200 [\d.]+ ms"
    assert [line for line in lines if not re.fullmatch(shape, line)] == []
    assert sorted(first_match(r"\[(.+?)\]", line) for line in lines) == sorted(ids)
