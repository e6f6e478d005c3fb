"""What is published in one process arrives in another, through outages and to many event streams."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.streams import Stream, open_streams
from tests.template import ROOT, MakeProject, PostgresServer, Project, Server, first_match

STREAMS = 200
DEFAULT_ASGI_THREADS = 10
SAVE_RESULT = """
from django.db import connection, transaction
from status.checks import save_result
from status.models import Result, Service

def save():
    service, _ = Service.objects.get_or_create(name="site", defaults={"url": "http://127.0.0.1:1/"})
    save_result(Result(service=service, state="up", milliseconds=1, detail="200"))
"""
# Nobody listens at the commit.
SAVE_UNHEARD = """
with transaction.atomic():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query = 'LISTEN pubsub'")
        assert cursor.fetchall() == [(True,), (True,)]
    save()
"""


def test_an_outage_of_postgresql(own_postgresql: PostgresServer, make_project: MakeProject) -> None:
    """Open streams go on by themselves, have each result in the end, and need few connections."""
    project = make_project(starter="live", database="postgresql").in_production(own_postgresql.get_uri("postgres"))
    project.manage("migrate")
    project.manage("collectstatic", "--no-input")
    with project.run_server() as first, project.run_server() as second:
        asyncio.run(follow_results(project, own_postgresql, [first, second]))
        for server in (first, second):
            assert server.stop() in (0, -15), server.output
            assert "Traceback" not in server.output


async def follow_results(project: Project, database: PostgresServer, servers: list[Server]) -> None:
    async def save_result(way: str = "save()") -> None:
        await asyncio.to_thread(project.manage, "shell", "--no-imports", "--command", SAVE_RESULT + way)

    async def receive(streams: list[Stream]) -> Any:
        events = await asyncio.gather(*[asyncio.wait_for(stream.next_event(), 20) for stream in streams])
        assert all(event == events[0] for event in events)
        return events[0]["id"]

    async with open_streams([server.port for server in servers], STREAMS, "/events/?after=0") as streams:
        await save_result()
        assert await receive(streams) == 1
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        count = int(first_match(r"^\s*(\d+)\s*$", await asyncio.to_thread(database.psql, query)))
        assert count - 1 <= len(servers) * (DEFAULT_ASGI_THREADS + 1), "besides psql's own"
        await asyncio.to_thread(database.stop)
        await asyncio.to_thread(database.start)
        for number, way in enumerate(["save()", SAVE_UNHEARD, "save()"], 2):
            await save_result(way)
            assert await receive(streams) == number


RECEIVE = """
import asyncio, json
from channels.layers import get_channel_layer
from wiki.serving.pubsub import subscribe

async def print_messages():
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("news", channel)
    await layer.group_add("left", channel)
    await layer.group_discard("left", channel)
    print(channel, flush=True)
    while True:
        print(json.dumps(await layer.receive(channel)), flush=True)

async def print_payloads():
    async with subscribe("news") as payloads:
        async for payload in payloads:
            print(json.dumps(payload), flush=True)

"""
SEND = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from wiki.serving.pubsub import publish_sync

layer = get_channel_layer()
group_send = async_to_sync(layer.group_send)  # as tutorials do in sync code
group_send("news", {"type": "a", "text": "é"})
group_send("left", {"type": "b"})
group_send("others", {"type": "c"})
for message in ({"type": "d", "text": "é" * 4000}, {"type": "e", "bytes": b""}, "text"):
    try:
        group_send("news", message)
    except (ValueError, TypeError) as error:
        print(error)
try:
    group_send("no name", {"type": "f"})
except TypeError as error:
    print(type(error).__name__)
publish_sync(layer.TOPIC, "not a message")
async_to_sync(layer.send)(CHANNEL, {"type": "g"})
async_to_sync(layer.send)("specific.another-process!0", {"type": "h"})
for number in range(200):
    group_send("news", {"type": "i", "number": number})
"""


@contextmanager
def run_script(project: Project, script: str) -> Iterator[Callable[[], str]]:
    """Run the script in a process of the project; yields a function that returns the next line of its output."""
    command = [str(project.python), "manage.py", "shell", "--no-imports", "--command", script]
    with subprocess.Popen(
        command, cwd=project.path, env=project.environment, stdout=subprocess.PIPE, text=True
    ) as process:

        def read_line() -> str:
            assert process.stdout
            line = process.stdout.readline()
            assert line, "the script has ended"
            return line

        try:
            yield read_line
        finally:
            process.kill()


def test_the_channel_layer_on_postgresql(make_project: MakeProject, postgresql: str) -> None:
    """What one process sends reaches consumers of another; what cannot be sent is refused. No table is needed."""
    project = make_project(channels=True, database="postgresql").in_production(postgresql)
    with run_script(project, f"{RECEIVE}asyncio.run(print_messages())") as read_line:
        channel = read_line().strip()
        sent = project.manage("shell", "--no-imports", "--command", f"CHANNEL = {channel!r}{SEND}")
        too_large, not_json, no_dict, invalid = sent.stdout.splitlines()
        assert re.match(r"A message to 'channel layer' has 8,0\d\d bytes; the limit is 7,999. Save", too_large)
        assert (not_json, invalid) == ("Object of type bytes is not JSON serializable", "TypeError")
        assert no_dict == "A message must be a dict, not 'text'."
        lines = [read_line()]
        while '"number": 199' not in lines[-1]:
            lines.append(read_line())
    assert any("could not be delivered: not a message" in line for line in lines)
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    assert messages[:2] == [{"type": "a", "text": "é"}, {"type": "g"}]
    assert [message["number"] for message in messages[2:]] == list(range(200))


def test_two_processes_on_sqlite(make_project: MakeProject) -> None:
    """Messages of another process arrive soon and in order, and old ones are deleted."""
    project = make_project()

    def publish(count: int) -> int:
        """Return how many messages the table has."""
        script = (
            "from django.db import connection\n"
            "from wiki.serving.pubsub import publish_sync\n"
            f"for number in range({count}):\n"
            "    publish_sync('news', str(number))\n"
            "print(*connection.cursor().execute('SELECT count(*) FROM serving_message').fetchone())\n"
        )
        return int(project.manage("shell", "--no-imports", "--command", script).stdout)

    assert publish(1100) == 1000
    with run_script(project, f"{RECEIVE}asyncio.run(print_payloads())") as read_line:
        assert read_line() == "null\n"
        publish(150)
        assert [json.loads(read_line()) for _ in range(150)] == [str(number) for number in range(150)]


# Runs in a network of its own, in which it may drop packets.
VANISH = """
import asyncio, subprocess, sys, time
from pathlib import Path
from tests.streams import open_streams

def count_connections():
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(state == "01" and local.endswith(":1F40") for _, local, _, state, *_ in rows)

async def vanish():
    async with open_streams([8000], 5, "/events/?after=0") as streams:
        assert count_connections() == 5
        for stream in streams[1:]:
            port = str(stream.writer.get_extra_info("sockname")[1])
            for side in ("--sport", "--dport"):
                subprocess.run(["iptables", "-A", "INPUT", "-p", "tcp", side, port, "-j", "DROP"], check=True)
        start = time.monotonic()
        while count_connections() > 1 and time.monotonic() < start + 60:
            await asyncio.sleep(1)
        await streams[0].reader.readuntil(b"keep-alive")
        print(count_connections(), server.poll())

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
Path("/proc/sys/net/ipv4/tcp_retries2").write_text(sys.argv[1])
server = subprocess.Popen(sys.argv[3:], cwd=sys.argv[2])
time.sleep(10)
try:
    asyncio.run(vanish())
finally:
    server.terminate()
    server.wait(20)
"""


@pytest.mark.exhaustive
def test_clients_that_vanish(make_production_project: MakeProject) -> None:
    """With the setting of compose.yaml the connections of clients that no packet reaches end within a minute."""
    own_network = ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*own_network, "iptables", "-L"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("packets cannot be dropped here")
    project = make_production_project(starter="live", server="uvicorn")
    compose = yaml.safe_load((project.path / "compose.yaml").read_text())
    retries = compose["services"]["web"]["sysctls"]["net.ipv4.tcp_retries2"]
    assert compose["services"]["proxy"]["sysctls"]["net.ipv4.tcp_retries2"] == retries
    server = [str(project.python), "-m", "uvicorn", "wiki.asgi:application", "--port", "8000"]
    ran = subprocess.run(
        [*own_network, sys.executable, "-c", VANISH, str(retries), str(project.path), *server],
        cwd=ROOT,
        env=project.environment | {"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert ran.stdout.splitlines()[-1:] == ["1 None"], ran.stdout + ran.stderr
