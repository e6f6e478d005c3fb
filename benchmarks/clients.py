"""The clients of the measurements, and what is read off the servers meanwhile."""

import asyncio
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles

from websockets.asyncio.client import connect

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


def wrk(port, path, cookie, seconds, core, connections=32):
    """Requests per second, and how many of them failed."""
    headers = HEADERS | ({"Cookie": cookie} if cookie else {})
    options = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}", *options]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True
    ).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return {
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
        "failed": (int(failed[1]) if failed else 0) + (sum(map(int, socket_errors.groups())) if socket_errors else 0),
    }


def memory(pid):
    """Resident memory of a process and those it started, in MiB."""
    total, pids = 0, [pid]
    while pids:
        process = Path("/proc") / str(pids.pop())
        total += int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1])
        pids += (process / "task" / process.name / "children").read_text().split()
    return total / 1024


def under_load(port, path, database, name):
    """The largest number of connections to the database `name` while 256 clients ask for 5 s."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    headers = [argument for name, value in HEADERS.items() for argument in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", "-c256", "-d5", *headers, f"http://127.0.0.1:{port}{path}"]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen = []
    while load.poll() is None:
        seen.append(int(re.search(r"^\s*(\d+)\s*$", database.psql(query), re.MULTILINE)[1]))
        time.sleep(0.2)
    return max(seen)


async def websockets(pid, port):
    """KiB of server memory for each of 1,000 idle WebSockets; ms until the last of 200 has a message."""
    url, options = f"ws://127.0.0.1:{port}/ws/room/", {"origin": f"http://127.0.0.1:{port}", "max_queue": 64}
    before = memory(pid)
    idle = [await connect(url, **options) for _ in range(1000)]
    await asyncio.sleep(1)
    each = (memory(pid) - before) * 1024 / len(idle)
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


async def mixed(port, path, seconds, clients=32):
    """The p99, in ms, of requests for `path` by clients whose every tenth request is for the slow view."""
    times, end = [], time.perf_counter() + seconds

    async def client(offset):
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
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))
            if not slow:
                times.append((time.perf_counter() - start) * 1000)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    await asyncio.gather(*[client(number) for number in range(clients)])
    return quantiles(times, n=100)[98]
