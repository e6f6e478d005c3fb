"""Clients that load a server, and measurements of the server under that load."""

import asyncio
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import httpx
from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.template import first_match

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


@dataclass
class Load:
    requests_per_second: float
    failed: int


def wrk(port: int, path: str, cookie: str, seconds: int, core: str, connections: int = 32) -> Load:
    """Load a path with wrk on this core."""
    headers = HEADERS | ({"Cookie": cookie} if cookie else {})
    options = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}", *options]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True
    ).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return Load(
        requests_per_second=float(first_match(r"Requests/sec:\s+([\d.]+)", output)),
        failed=(int(failed[1]) if failed else 0) + (sum(map(int, socket_errors.groups())) if socket_errors else 0),
    )


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process and its children."""
    total, pids = 0, [str(pid)]
    while pids:
        process = Path("/proc") / pids.pop()
        total += int(first_match(r"VmRSS:\s+(\d+)", (process / "status").read_text()))
        pids += (process / "task" / process.name / "children").read_text().split()
    return total / 1024


def max_connections(port: int, path: str, psql: Callable[[str], str], database: str) -> int:
    """Return the largest number of connections to the database during 5 s of load from 256 clients."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    headers = [argument for name, value in HEADERS.items() for argument in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", "-c256", "-d5", *headers, f"http://127.0.0.1:{port}{path}"]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    counts = []
    while load.poll() is None:
        counts.append(int(first_match(r"^\s*(\d+)\s*$", psql(query))))
        time.sleep(0.2)
    return max(counts)


class StreamClient(asyncio.Protocol):
    """Notes when the last event came. A library's client would take longer than the server."""

    received_at = 0.0

    def __init__(self, path: str) -> None:
        self.request = "\r\n".join(
            [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in HEADERS.items()), "", ""]
        )
        self.opened = asyncio.Event()
        self.event = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request.encode())

    def data_received(self, data: bytes) -> None:
        if b"data: " in data:
            self.received_at = time.time()
            self.event.set()
        elif b"keep-alive" in data:
            self.opened.set()


async def measure_event_streams(pid: int, port: int) -> dict[str, float]:
    """Measure server memory per event stream of 1,000, and the time until the last of them has an event."""
    loop = asyncio.get_running_loop()
    before = memory_mib(pid)
    streams = []
    for _ in range(1000):
        _, stream = await loop.create_connection(lambda: StreamClient("/bench/events/"), "127.0.0.1", port)
        await stream.opened.wait()
        streams.append(stream)
    each = (memory_mib(pid) - before) * 1024 / len(streams)
    times = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client:
        for _ in range(20):
            for stream in streams:
                stream.event.clear()
            start = time.time()
            await client.get("/bench/tick/")
            await asyncio.gather(*[stream.event.wait() for stream in streams])
            times.append((max(stream.received_at for stream in streams) - start) * 1000)
    for stream in streams:
        stream.transport.close()
    return {"KiB each": round(each, 1), "ms until the last of 1,000 has it": round(median(times), 1)}


async def measure_websockets(pid: int, port: int) -> dict[str, float]:
    """Measure server memory per idle WebSocket of 1,000, and the time until the last of 200 receives a message."""
    connect_to_room = partial(
        connect,
        "ws://example.com/ws/room/",
        host="127.0.0.1",
        port=port,
        origin=Origin("http://example.com"),
        max_queue=64,
    )
    before = memory_mib(pid)
    idle = [await connect_to_room() for _ in range(1000)]
    await asyncio.sleep(1)
    each = (memory_mib(pid) - before) * 1024 / len(idle)
    for socket in idle[200:]:
        await socket.close()
    members = idle[:200]
    await asyncio.sleep(1)
    times = []
    for number in range(20):
        start = time.perf_counter()
        await members[0].send(str(number))
        answers = await asyncio.gather(*[member.recv() for member in members])
        times.append((time.perf_counter() - start) * 1000)
        assert set(answers) == {str(number)}
    await asyncio.gather(*[member.close() for member in members])
    return {"KiB each": round(each, 1), "ms until the last of 200 has it": round(median(times), 1)}


async def mixed_load_p99(port: int, path: str, seconds: float, clients: int = 32) -> float:
    """Return the p99, in ms, of requests for `path` from clients whose every tenth request is for the slow view."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(offset: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = offset
        while time.perf_counter() < end:
            number += 1
            slow = number % 10 == 0
            target = "/bench/slow/" if slow else path
            start = time.perf_counter()
            headers = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
            writer.write(f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0], head
            await reader.readexactly(int(first_match(r"(?i)content-length: (\d+)", head.decode())))
            if not slow:
                times.append((time.perf_counter() - start) * 1000)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    await asyncio.gather(*[client(number) for number in range(clients)])
    return quantiles(times, n=100)[98]
