"""The ASGI core on real servers and a real PostgreSQL: threads, connections, and isolation of requests."""

import asyncio
import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.template import (
    BACKGROUND_THREADS,
    LISTENING_CONNECTIONS,
    PROBE_THREADS,
    ROOT,
    SERVERS,
    MakeProbeProject,
    MakeProject,
    PostgresServer,
    Project,
    Server,
    connect,
    data_lines,
    edit,
    first_match,
    free_port,
    on_servers,
)


@on_servers("uvicorn", "daphne")
def test_256_clients_and_few_connections(
    server: str, make_probe_project: MakeProbeProject, connections: Callable[[], int]
) -> None:
    with make_probe_project(server).run_server() as running:
        seen = asyncio.run(send_requests(running, ["/probe/count/", "/probe/async_count/"], clients=256, requests=4))
        assert seen == {200: 1024}, running.output
        assert 1 <= connections() <= PROBE_THREADS
        asyncio.run(exchange_many_messages(running, sockets=40))
        assert 1 <= connections() <= PROBE_THREADS + BACKGROUND_THREADS + LISTENING_CONNECTIONS
        assert "Traceback" not in running.output


async def send_requests(running: Server, paths: list[str], clients: int, requests: int) -> dict[int, int]:
    seen: dict[int, int] = {}
    limits = httpx.Limits(max_connections=clients)
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}

    async def ask(client: httpx.AsyncClient, path: str) -> None:
        for _ in range(requests):
            response = await client.get(path)
            seen[response.status_code] = seen.get(response.status_code, 0) + 1

    async with httpx.AsyncClient(base_url=running.url, limits=limits, headers=headers, timeout=60) as client:
        await asyncio.gather(*[ask(client, paths[number % len(paths)]) for number in range(clients)])
    return seen


async def exchange_many_messages(running: Server, sockets: int) -> None:
    url = f"ws://127.0.0.1:{running.port}/ws/count/"
    opened = [await connect(url) for _ in range(sockets)]
    await asyncio.gather(*[socket.send("{}") for socket in opened])
    answers = await asyncio.gather(*[socket.recv() for socket in opened])
    assert {json.loads(answer)["users"] for answer in answers} == {0}
    await asyncio.gather(*[socket.close() for socket in opened])


def test_no_state_is_left_for_the_next_request(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        for _ in range(2 * PROBE_THREADS):
            assert client.get("/probe/litter/").status_code == 200
            assert client.get("/probe/begin/").status_code == 200
            assert client.get("/probe/disconnect/").status_code == 200
            assert client.get("/probe/vendor/").text == "postgresql"
        for _ in range(3 * PROBE_THREADS):
            state = client.get("/probe/state/").json()
            assert state["language"] == "en-us"
            assert state["time_zone"] == "UTC"
            assert state["in_transaction"] is False
            assert state["autocommit"] is True
            assert state["queries"] == 1
        for _ in range(2 * PROBE_THREADS):
            assert client.get("/probe/count/").json() == {"users": 0}, "a transaction was committed, or is still open"
        assert "Traceback" not in running.output


def test_a_transaction_in_sqlite_ends_with_its_request(make_probe_project: MakeProbeProject) -> None:
    with (
        make_probe_project(database="sqlite", database_url="sqlite:///db.sqlite3").run_server() as running,
        running.client() as client,
    ):
        for _ in range(2 * PROBE_THREADS):
            assert client.get("/probe/begin/").status_code == 200
            assert client.get("/probe/count/").json() == {"users": 0}


def test_sqlite_connections_are_reused(make_probe_project: MakeProbeProject) -> None:
    with (
        make_probe_project(database="sqlite", database_url="sqlite:///db.sqlite3").run_server() as running,
        running.client() as client,
    ):
        for _ in range(5 * PROBE_THREADS):
            for view in ("count", "async_count"):
                assert client.get(f"/probe/{view}/").json() == {"users": 0}
        assert 1 <= client.get("/probe/count_connected/").json()["connected"] <= PROBE_THREADS
        for _ in range(2):  # the second call waits for the end of the first one's thread
            with client.stream("GET", "/probe/event_stream/") as response:
                assert next(line for line in response.iter_lines() if "data" in line) == "data: 0"
        assert "Traceback" not in running.output


def test_with_djangos_connection_pool(make_probe_project: MakeProbeProject, connections: Callable[[], int]) -> None:
    project = make_probe_project()
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write('DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 2}\n')
    with project.run_server() as running:
        seen = asyncio.run(send_requests(running, ["/probe/count/", "/probe/async_count/"], clients=32, requests=8))
        assert seen == {200: 256}, running.output
        assert connections() <= 2
        with running.client() as client:
            for _ in range(4):
                assert client.get("/probe/change_setting/").text == "changed"
            assert data_lines(client.get("/probe/event_stream_setting/").text) == [""]


BACKEND_VIEWS = {"backend": PROBE_THREADS, "async_backend": PROBE_THREADS, "event_stream_backends": BACKGROUND_THREADS}


def test_connections_are_reused(make_probe_project: MakeProbeProject) -> None:
    """Later requests and later calls of event streams reuse them."""
    with make_probe_project().run_server() as running, running.client() as client:
        for view, most in BACKEND_VIEWS.items():
            answers = [get_processes(client, view) for _ in range(5 * PROBE_THREADS)]
            assert 1 <= len({process for answer in answers for process, _ in answer}) <= most, view
        assert "Traceback" not in running.output


def get_processes(client: httpx.Client, view: str) -> list[tuple[int, float]]:
    """The processes of PostgreSQL that responded to the view, with their age, from JSON or an event's data."""
    answer: dict[str, list[tuple[int, float]]] = json.loads(first_match(r"({.+})", client.get(f"/probe/{view}/").text))
    return answer["processes"]


def test_connections_are_replaced_when_they_are_old(make_probe_project: MakeProbeProject) -> None:
    """This applies to busy connections and to idle ones."""
    project = make_probe_project()
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write("ASGI_CONN_MAX_AGE = 1\n")
    with project.run_server() as running, running.client() as client:

        def check(view: str) -> None:
            ages = [age for _, age in get_processes(client, view)]
            assert max(ages) < 2, view

        for used in ("backend", "event_stream_backends", "backend"):
            for view in BACKEND_VIEWS:
                check(view)
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                check(used)


def test_threads_are_started_once(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        for _ in range(5):
            asyncio.run(send_requests(running, ["/probe/slow/"], clients=2 * PROBE_THREADS, requests=1))
            client.get("/probe/async_count/")
            client.get("/probe/broken/")
        threads = client.get("/probe/state/").json()["threads"]
        assert [name for name in threads if name.startswith("asgi-")] == [
            f"asgi-{n}" for n in range(1, PROBE_THREADS + 1)
        ]
        for _ in range(10):
            client.get("/probe/state/")
        assert client.get("/probe/state/").json()["threads"] == threads


def test_async_views_start_no_thread(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        client.get("/")  # the first request starts the thread of the access log
        before = client.get("/probe/async_state/").json()["threads"]
        for _ in range(10):
            client.get("/probe/async_state/")
            client.get("/")
        assert client.get("/probe/async_state/").json()["threads"] == before
        assert not any(name.startswith("asgi-") for name in before)


def test_one_request_keeps_its_thread(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        assert len(set(client.get("/probe/threads_of_one_request/").json()["threads"])) == 1


def test_event_streams_hold_no_thread(make_probe_project: MakeProbeProject, connections: Callable[[], int]) -> None:
    """Other requests get responses while ten times as many streams as threads are open, each with a query."""
    with make_probe_project().run_server() as running:
        asyncio.run(stream_many(running, streams=10 * PROBE_THREADS))
        assert connections() <= PROBE_THREADS + BACKGROUND_THREADS


async def stream_many(running: Server, streams: int) -> None:
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    limits = httpx.Limits(max_connections=streams + 5)
    async with httpx.AsyncClient(base_url=running.url, limits=limits, headers=headers, timeout=20) as client:
        opened = []
        for _ in range(streams):
            response = await client.send(client.build_request("GET", "/probe/event_stream/"), stream=True)
            opened.append(response)
            lines = response.aiter_lines()
            assert "data: 0" in [await anext(lines) for _ in range(3)]
        for path in ("/probe/count/", "/probe/async_count/"):
            assert (await client.get(path)).json() == {"users": 0}
        for response in opened:
            await response.aclose()


def test_slow_clients_hold_no_thread(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client, ExitStack() as opened:
        for path in 2 * PROBE_THREADS * ["async_large", "large", "large_stream"]:
            slow = opened.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
            head = f"GET /probe/{path}/ HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\n\r\n"
            slow.sendall(head.encode())
            assert slow.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        assert client.get("/probe/count/").json() == {"users": 0}


def test_caches_are_closed_after_each_request(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    settings = project.path / "wiki" / "settings.py"
    settings.write_text(settings.read_text() + '\nCACHES = {"default": {"BACKEND": "probe.caches.CountedCache"}}\n')
    with project.run_server() as running, running.client() as client:
        answers = [client.get(f"/probe/{path}/").json()["closed"] for path in 2 * ["cached", "async_cached"]]
        assert answers == [0, 1, 2, 3]


def test_a_task_may_outlive_its_request(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        assert client.get("/probe/later/").text == "started"
        running.wait_until(lambda: client.get("/probe/count/").json() == {"users": 1}, seconds=10)
        assert "Traceback" not in running.output


def test_health_and_async_views_respond_while_all_threads_are_busy(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        asyncio.run(request_during_slow_views(running))
        assert client.get("/probe/count/").status_code == 200


async def request_during_slow_views(running: Server) -> None:
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=20) as client:
        slow = [asyncio.create_task(client.get("/probe/slow/")) for _ in range(2 * PROBE_THREADS)]
        await asyncio.sleep(0.3)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/probe/async_state/")).status_code == 200
        assert not any(task.done() for task in slow)
        assert {response.text for response in await asyncio.gather(*slow)} == {"slow"}


def test_threads_are_reused_after_disconnects(make_probe_project: MakeProbeProject) -> None:
    """A thread whose client disconnects runs later requests."""
    with make_probe_project().run_server() as running, running.client() as client:
        for _ in range(2 * PROBE_THREADS):
            with pytest.raises(httpx.ReadTimeout):
                client.get("/probe/slow/", timeout=0.1)
        assert client.get("/probe/count/").json() == {"users": 0}
        assert "Traceback" not in running.output


def test_async_code_in_a_sync_view_is_cancelled_on_disconnect(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        for _ in range(2 * PROBE_THREADS):
            with pytest.raises(httpx.ReadTimeout):
                client.get("/probe/wait_long/", timeout=0.1)
        running.wait_until(
            lambda: client.get("/probe/count_cancelled/").json() == {"cancelled": 2 * PROBE_THREADS}, seconds=10
        )
        assert client.get("/probe/count/").json() == {"users": 0}
        assert "Traceback" not in running.output


def test_an_error_after_a_disconnect_is_logged_once(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        with client.stream("GET", "/probe/careless_stream/") as response:
            assert next(response.iter_lines()) == "data: 1"
        running.wait_until(lambda: "clean-up broke" in running.output, seconds=10)
        assert client.get("/probe/count/").json() == {"users": 0}
    assert running.output.count("RuntimeError: clean-up broke") == 1, running.output


def test_a_timeout_in_a_stream_is_an_error(make_probe_project: MakeProbeProject) -> None:
    """It is not mistaken for the core's cancellation on disconnect."""
    with make_probe_project().run_server() as running, running.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/probe/stream_with_timeout/")
        running.wait_until(lambda: "TimeoutError: stream took too long" in running.output, seconds=10)


def test_close_methods_and_failure_views_may_query_the_database(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write('CSRF_FAILURE_VIEW = "probe.views.refused"\n')
    with project.run_server() as running, running.client() as client:
        closings = ["closing", "async_closing", "closing_instance", "async_closing_instance", "async_with_closer"]
        for path in closings:
            assert client.get(f"/probe/{path}/").status_code == 200
        running.wait_until(lambda: client.get("/probe/count/").json() == {"users": len(closings)}, seconds=10)
        for method in ("POST", "PUT", "DELETE"):
            for path in ("/probe/visit/", "/probe/count/"):
                assert client.request(method, path).text == f"refused, {len(closings)} users"


def test_receivers_are_called_for_each_request(make_probe_project: MakeProbeProject) -> None:
    """Receivers are also called if an earlier request has closed the same response object."""
    project = make_probe_project()
    connect = "from django.core.signals import request_finished\nrequest_finished.connect(record_finished)\n"
    with (project.path / "probe" / "views.py").open("a") as views:
        views.write(connect)
    with project.run_server() as running, running.client() as client:
        for _ in range(10):
            assert client.get("/probe/shared/").text == "the same for all"
        assert client.get("/probe/count_finished/").json()["finished"] >= 9  # the last may still be on its way


def add_receiver(project: Project, name: str) -> None:
    with (project.path / "probe" / "views.py").open("a") as views:
        views.write(f"from django.core.signals import request_finished\nrequest_finished.connect({name})\n")


def test_receivers_run_after_the_response(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    add_receiver(project, "wait_to_finish")
    with project.run_server() as running, running.client(timeout=5) as client:
        for path in ("shared", "count"):
            assert client.get(f"/probe/{path}/", headers={"Connection": "close"}).status_code == 200
        assert client.get("/probe/let_finish/").text == "finished"


def test_request_finished_is_sent_after_a_disconnect(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    add_receiver(project, "record_finished")
    with project.run_server() as running, running.client() as client:
        for path in 2 * ["async_wait_long", "wait_long"]:
            with pytest.raises(httpx.ReadTimeout):
                client.get(f"/probe/{path}/", timeout=0.2)
        # Each of these requests is counted when it ends.
        earlier = itertools.count()
        running.wait_until(
            lambda: client.get("/probe/count_finished/").json()["finished"] >= 4 + next(earlier), seconds=10
        )


def test_error_pages_run_in_the_thread_of_their_request(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    with (project.path / "wiki" / "urls.py").open("a") as urls:
        urls.write('handler500 = "probe.views.server_error"\n')
    with project.run_server() as running, running.client() as client:
        for path in ("broken", "async_broken"):
            assert client.get(f"/probe/{path}/").text.startswith("asgi-")


def test_cancelled_calls_are_not_made(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        assert client.get("/probe/cancel_a_call/").json() == {"calls": ["last call"]}


# Another thread releases the request's thread while a call is submitted.
RELEASE_WHILE_SUBMITTING = """
import asyncio, threading, time
from queue import SimpleQueue
from asgiref.sync import sync_to_async
from wiki.serving.threads import ThreadPool

class SlowQueue(SimpleQueue):
    def put(self, call):
        if call is not None:
            threading.Thread(target=request_thread.release).start()
            time.sleep(0.1)
        super().put(call)

async def main():
    global request_thread
    request_thread = await ThreadPool().enter_request_context("request")
    request_thread.calls = SlowQueue()
    async with asyncio.timeout(10):
        print("the result is", await sync_to_async(abs)(-7))

asyncio.run(main())
"""


def test_no_call_is_lost_while_the_thread_is_released(make_project: MakeProject) -> None:
    shell = make_project().manage("shell", "--command", RELEASE_WHILE_SUBMITTING)
    assert "the result is 7" in shell.stdout


CLOSE_ALL_THREADS = """
import asyncio, time
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connection
from wiki.serving.database import persistent_connections
from wiki.serving.threads import ThreadPool

pool = ThreadPool()

async def use_threads():
    request_thread = await pool.enter_request_context("request")
    await get_user_model().objects.acount()
    request_thread.release()
    await get_user_model().objects.acount()  # in a background thread

def count_others():
    with connection.cursor() as cursor:
        others = "datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        cursor.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {others}")
        return cursor.fetchone()[0]

with persistent_connections():
    asyncio.run(use_threads())
    print("before:", count_others())
pool.close(timeout_seconds=10)
deadline = time.monotonic() + 10  # PostgreSQL takes a moment to close them
while (left := count_others()) and time.monotonic() < deadline:
    time.sleep(0.01)
print("after:", left)
"""


def test_threads_close_their_connections_at_shutdown(make_probe_project: MakeProbeProject) -> None:
    shell = make_probe_project().manage("shell", "--command", CLOSE_ALL_THREADS)
    assert "before: 2" in shell.stdout
    assert "after: 0" in shell.stdout
    assert "ResourceWarning" not in shell.stderr


LIFESPAN = """
import asyncio
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, connections, reset_queries

def print_state():
    receivers = [
        id(receiver) in {key[0] for key, *_ in signal.receivers}
        for signal in (request_started, request_finished)
        for receiver in (reset_queries, close_old_connections)
    ]
    print(receivers, connections["default"].settings_dict["CONN_MAX_AGE"])

print_state()
from wiki.serving.handler import ASGIHandler
ASGIHandler()
print_state()
from wiki.asgi import application
print_state()

async def main():
    received, sent = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(application({"type": "lifespan"}, received.get, sent.put))
    async with asyncio.timeout(10):
        for event in ("startup", "shutdown"):
            for _ in range(10):
                await asyncio.sleep(0)
            print(f"before {event}:", sent.qsize())
            await received.put({"type": f"lifespan.{event}"})
            print((await sent.get())["type"])
        await task

asyncio.run(main())
print_state()
"""


def test_lifespan(make_project: MakeProject) -> None:
    """Only `get_asgi_application` changes what Django does with connections, and the end of lifespan takes it back."""
    said = make_project().manage("shell", "--no-imports", "--command", LIFESPAN).stdout.splitlines()
    djangos, ours = "[True, True, False, True] 0", "[False, False, False, False] 600"
    assert said == [
        djangos,
        djangos,
        ours,
        "before startup: 0",
        "lifespan.startup.complete",
        "before shutdown: 0",
        "lifespan.shutdown.complete",
        djangos,
    ]


RESET_CONNECTIONS_THAT_FAIL = """
from django.db import connections
from wiki.serving.database import reset_connections

def fail():
    raise OSError

connections.settings["other"] = {**connections.settings["default"]}
for alias in connections:
    connections[alias].in_atomic_block = True
connections["default"].close = fail
try:
    reset_connections()
except OSError:
    print("kept:", [connection.alias for connection in connections.all(initialized_only=True)])
"""


def test_a_failing_connection_does_not_keep_others_open(make_project: MakeProject) -> None:
    shell = make_project().manage("shell", "--command", RESET_CONNECTIONS_THAT_FAIL)
    assert "kept: []" in shell.stdout


def test_paths_do_not_fill_the_memory(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        before = memory_bytes(client)
        for number in range(300):
            assert client.get(f"/{number:060000}🧀").status_code == 404
        assert memory_bytes(client) - before < 40 * 1024**2


def memory_bytes(client: httpx.Client) -> int:
    """Return the resident memory of the server process."""
    process = client.get("/probe/state/").json()["process"]
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], check=True, capture_output=True, text=True)
    return int(shown.stdout) * 1024


def test_threads_keep_no_reference_to_their_last_call(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        assert client.get("/probe/stream_with_calls/").text.count("Thing") == 10
        client.get("/probe/event_stream_backends/")
        first = client.get("/probe/count_things/").json()
        for _ in range(5):  # ten calls, each in its own thread
            client.get("/probe/event_stream_backends/")
        last = client.get("/probe/count_things/").json()
        assert first["things"] == last["things"] == 0
        assert last["threads"] < first["threads"] + 10


def test_a_view_that_hangs_does_not_block_shutdown(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    port = free_port()
    command = ["uvicorn", "wiki.asgi:application", "--port", str(port), "--timeout-graceful-shutdown", "1"]
    with project.run_process(command, port) as running, running.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/probe/stuck/", timeout=0.5)
        running.stop(seconds=15)


def test_context_of_a_sync_view(make_probe_project: MakeProbeProject) -> None:
    """The view sees context variables of its caller, and its response those of the view."""
    with make_probe_project().run_server(UVICORN_ROOT_PATH="/app") as running, running.client() as client:
        assert client.get("/probe/context/").text == "/app/ /app/ de"


def test_uploads_and_downloads(make_probe_project: MakeProbeProject) -> None:
    content = os.urandom(6_000_000)
    with make_probe_project().run_server() as running, running.client() as client:
        sent = client.post("/probe/upload/", files={"file": ("big.bin", content)}).json()
        assert sent == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "on_disk": True}
        received = client.get("/probe/download/")
        assert received.text == (ROOT / "tests" / "probe" / "views.py").read_text()
        assert received.headers["content-disposition"] == 'attachment; filename="views.py"'


def test_sessions_messages_and_forms_in_async_views(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        for visit in (1, 2):
            seen = client.get("/probe/visit/").json()
            assert (seen["visits"], seen["messages"]) == (visit, [])
        form = {"csrfmiddlewaretoken": seen["token"], "text": "x" * 2_000_000}
        headers = {"Origin": "https://example.com"}
        sent = client.post("/probe/visit/", data=form, headers=headers).json()
        assert (sent["visits"], sent["messages"]) == (3, ["visit 1", "visit 2", "visit 3"])
        assert (
            client.post("/probe/visit/", data=form | {"csrfmiddlewaretoken": "x"}, headers=headers).status_code == 403
        )
        assert "Traceback" not in running.output


def test_messages_in_a_session_that_was_not_loaded(make_probe_project: MakeProbeProject) -> None:
    with make_probe_project().run_server() as running, running.client() as client:
        token = client.get("/probe/visit/").json()["token"]
        assert client.get("/probe/notify/").status_code == 200, running.output
        headers = {"Origin": "https://example.com"}
        shown = client.post("/probe/visit/", data={"csrfmiddlewaretoken": token}, headers=headers).json()["messages"]
        assert shown == ["visit 1", "too much for a cookie", "visit 2"]


def test_csrf_tokens_in_sessions(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write("CSRF_USE_SESSIONS = True\n")
    with project.run_server() as running, running.client(headers={"Origin": "https://example.com"}) as client:
        token = client.get("/probe/visit/").json()["token"]
        for sent, status in ((token, 200), ("x" * len(token), 403)):
            assert client.post("/probe/visit/", data={"csrfmiddlewaretoken": sent}).status_code == status
        assert "Traceback" not in running.output


def test_sessions_that_are_saved_at_every_request(make_probe_project: MakeProbeProject) -> None:
    """The core saves them in a thread, since Django allows no queries on the event loop."""
    project = make_probe_project()
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write("SESSION_SAVE_EVERY_REQUEST = True\n")
    with project.run_server() as running, running.client() as client:
        assert client.get("/probe/visit/").json()["visits"] == 1
        assert "sessionid" in client.get("/probe/async_count/").cookies


@pytest.mark.parametrize("server", SERVERS)
def test_errors_and_logs(server: str, make_probe_project: MakeProbeProject) -> None:
    """The access log and each error, once, are JSON lines with the request's id; the page shows no details."""
    with make_probe_project(server).run_server(DJANGO_LOG_FORMAT="json") as running, running.client() as client:
        for path, message in (("broken", "sync view broke"), ("async_broken", "async view broke")):
            response = client.get(f"/probe/{path}/", headers={"X-Request-ID": path})
            assert (response.status_code, response.headers["X-Request-ID"]) == (500, path)
            assert not re.search(f"{message}|Traceback|probe", response.text)
            check_log(running, path, message)
            [line] = find_log_lines(running, path, lambda line: "duration_ms" in line)
            assert (line["method"], line["path"], line["status"]) == ("GET", f"/probe/{path}/", 500)
            assert line["duration_ms"] > 0
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/probe/broken_stream/", headers={"X-Request-ID": "stream"})
        # daphne logs it outside of the request's context.
        check_log(running, "-" if server == "daphne" else "stream", "stream broke")
        assert client.get("/probe/missing/").status_code == 404
        first, second = (client.get("/probe/count/").headers["X-Request-ID"] for _ in range(2))
        assert first != second
        assert [line["status"] for line in find_log_lines(running, second, lambda line: True)] == [200]


def check_log(running: Server, request_id: str, message: str) -> None:
    [error] = find_log_lines(running, request_id, lambda line: line["level"] == "ERROR")
    assert f"RuntimeError: {message}" in error.get("exc_info", error["message"])
    assert running.output.count(f"RuntimeError: {message}") == 1


def find_log_lines(
    running: Server, request_id: str, wanted: Callable[[dict[str, Any]], object]
) -> list[dict[str, Any]]:
    """Wait for log lines of a request that `wanted` accepts, and return them."""

    def find() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in running.output.splitlines() if re.match("{.*}$", line)]
        assert all(set(line) >= {"time", "level", "logger", "message", "request_id"} for line in lines)
        return [line for line in lines if line["request_id"] == request_id and wanted(line)]

    running.wait_until(find)
    return find()


def test_the_core_can_be_disabled(make_probe_project: MakeProbeProject) -> None:
    project = make_probe_project()
    asgi = project.path / "wiki" / "asgi.py"
    edit(asgi, "wiki.serving.handler import get_asgi_application", "django.core.asgi import get_asgi_application")
    edit(asgi, "get_asgi_application(pool)", "get_asgi_application()")
    with project.run_server() as running, running.client() as client:
        for path in ("/probe/count/", "/probe/async_count/"):
            assert client.get(path).json() == {"users": 0}
        assert not client.get("/probe/state/").json()["thread"].startswith("asgi-")


def test_check_names_sync_only_middleware(make_project: MakeProject) -> None:
    project = make_project()
    (project.path / "wiki" / "sync_only.py").write_text(
        "def middleware(get_response):\n    return lambda request: get_response(request)\n"
    )
    settings = project.path / "wiki" / "settings.py"
    added = '\nMIDDLEWARE += ["wiki.sync_only.middleware", "django.middleware.gzip.GZipMiddleware"]\n'
    settings.write_text(settings.read_text() + added)
    warnings = project.manage("check").stderr
    assert "(serving.W001) wiki.sync_only.middleware makes each request" in warnings
    assert "(serving.W001) django.middleware.gzip.GZipMiddleware makes each request" in warnings
    assert warnings.count("serving.W001") == 2


def test_connections_that_postgresql_closed_are_replaced(
    make_probe_project: MakeProbeProject,
    postgresql: str,
    postgresql_server: PostgresServer,
    connections: Callable[[], int],
) -> None:
    """No request fails because PostgreSQL closed an idle connection, as a restart does."""
    name = first_match(r"/(test_\w+)", postgresql)
    end = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
    with make_probe_project().run_server() as running, running.client() as client:
        for _ in range(3):
            for path in 2 * PROBE_THREADS * ["/probe/count/", "/probe/async_count/"]:
                assert client.get(path).json() == {"users": 0}, running.output
            postgresql_server.psql(end)
            running.wait_until(lambda: connections() == 0, seconds=10)
        assert client.get("/readyz").status_code == 200
        assert client.get("/probe/state/").json()["keepalives"] == "60"


CHAIN = """
import asyncio, itertools
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils.deprecation import MiddlewareMixin
from wiki.serving.middleware import AsyncMiddlewareMixin

class IoMixin(AsyncMiddlewareMixin):
    def does_io(self, request):
        return True

def make_middleware(name, mixin, trace, failing, responding):
    class Middleware(*mixin, MiddlewareMixin):
        def process_request(self, request):
            trace.append(f"{name} request")
            if failing == f"{name} request":
                raise ValueError
            if responding == name:
                return HttpResponse(name)

        def process_response(self, request, response):
            trace.append(f"{name} response {response.status_code} {response.content[:1]}")
            if failing == f"{name} response":
                raise ValueError
            return response

    return Middleware

def run(mixins, failing, responding):
    trace = []
    async def view(request):
        trace.append("view")
        if failing == "view":
            raise ValueError
        return HttpResponse("view")

    handler = convert_exception_to_response(view)
    for name, mixin in zip("cba", mixins):
        handler = convert_exception_to_response(make_middleware(name, mixin, trace, failing, responding)(handler))
    return asyncio.run(handler(RequestFactory().get("/"))).status_code, trace

failing = [None, "view", *(f"{name} {method}" for name in "abc" for method in ("request", "response"))]
mixins = itertools.product([(), (AsyncMiddlewareMixin,), (IoMixin,)], repeat=3)
cases = list(itertools.product(mixins, failing, [None, *"abc"]))
for mixin, *case in cases:
    assert run(mixin, *case) == run([(), (), ()], *case), (mixin, case)
print(len(cases), "cases")
"""


def test_middleware_runs_as_in_django(make_project: MakeProject) -> None:
    """Whether or not each does I/O, has the mixin, responds, or raises an error."""
    assert "864 cases" in make_project().manage("shell", "--command", CHAIN).stdout


MATCHES = """
import sys, types
from django.conf.urls.i18n import i18n_patterns
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import Resolver404, clear_url_caches, include, path, re_path, register_converter
from django.urls.converters import StringConverter
from django.utils import translation
from wiki.serving.handler import ASGIHandler, SyncHandler, get_match

async def view(request, **kwargs):
    return HttpResponse()

class Counting(StringConverter):
    count = 0
    def to_python(self, value):
        Counting.count += 1
        return Counting.count

register_converter(Counting, "counting")

def set_urls(*patterns):
    sys.modules["other_urls"] = module = types.ModuleType("other_urls")
    module.urlpatterns = list(patterns)
    clear_url_caches()

def match(path, handler):
    return handler.resolve_request(RequestFactory().get(path))

def is_found(path, handler):
    try:
        return bool(match(path, handler))
    except Resolver404:
        return False

below = ([path("b/<int:n>/<slug:s>/", view, {"extra": 1}, name="b"), re_path("^(c)/$", view)], "app")
with override_settings(ROOT_URLCONF="other_urls"):
    for make_handler in (SyncHandler, ASGIHandler):
        handler, django = make_handler(), BaseHandler()
        set_urls(path("a/", include(below, namespace="space")))
        for asked in ("/a/b/7/x/", "/a/c/"):
            expected = vars(match(asked, django)) | {"tried": None}
            hits = get_match.cache_info().hits
            for _ in range(3):
                found = match(asked, handler)
                assert vars(found) | {"tried": None} == expected, (vars(found), expected)
                for value in vars(found).values():  # a request may change what it likes
                    if isinstance(value, list | dict):
                        value.clear()
            assert get_match.cache_info().hits == hits + 2
        set_urls(path("other/", view))
        assert not is_found("/a/c/", handler) and is_found("/other/", handler)
        set_urls(path("<counting:number>/", view))
        assert match("/x/", handler).kwargs["number"] + 1 == match("/x/", handler).kwargs["number"]
        set_urls(*i18n_patterns(path("page/", view)))
        for language in ("de", "en", "de"):
            with translation.override(language):
                assert is_found("/de/page/", handler) == (language == "de")
print("all as in Django")
"""


def test_matches_are_those_of_django(make_project: MakeProject) -> None:
    """And no request sees what another one has done to its own."""
    assert "all as in Django" in make_project().manage("shell", "--command", MATCHES).stdout
