"""The core's limits: views that wait for their own thread, exhausted threads, many streams, large files, unusual libraries."""

import asyncio
import hashlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest

from tests.template import (
    CHOICES,
    PROBE_THREADS,
    ROOT,
    MakeProbeProject,
    MakeProject,
    Project,
    Server,
    StartRedis,
    also_in_test_all,
    code_blocks,
    first_match,
)
from tests.test_core import send_requests

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}
BACKGROUND_THREADS = 2
MEBIBYTE = 1024**2
FILE_BYTES = 60_000_000


@pytest.fixture
def make_limits_project(make_probe_project: MakeProbeProject) -> Callable[..., Project]:
    """`make_probe_project`, with the app of tests/limits/."""

    def make(settings: str = "", **answers: str) -> Project:
        return add_app(make_probe_project(**answers), settings)

    return make


def add_app(project: Project, settings: str = "") -> Project:
    shutil.copytree(ROOT / "tests" / "limits", project.path / "limits")
    urls = project.path / "wiki" / "urls.py"
    urls.write_text(urls.read_text().replace('path("",', 'path("limits/", include("limits.urls")),\n    path("",', 1))
    with (project.path / "wiki" / "settings.py").open("a") as file:
        file.write(f"\nASGI_BACKGROUND_THREADS = {BACKGROUND_THREADS}\n{settings}\n")
    return project


def request_concurrently(running: Server, paths: list[str], timeout: float = 10) -> list[int | str]:
    """Return the status or the error of each."""

    def ask(path: str) -> int | str:
        with running.client(timeout=timeout) as client:
            try:
                return client.get(path).status_code
            except httpx.TransportError as error:
                return type(error).__name__

    with ThreadPoolExecutor(len(paths)) as executor:
        return list(executor.map(ask, paths))


NESTED_LOOP_VIEWS = ["asyncio_run", "run_until_complete", "joined_thread", "run_coroutine_threadsafe"]


@pytest.mark.parametrize("view", NESTED_LOOP_VIEWS)
def test_an_event_loop_in_a_sync_view(
    view: str, make_limits_project: Callable[..., Project], connections: Callable[[], int]
) -> None:
    """More such requests than threads, each with a query, get a response, and no thread is lost."""
    with make_limits_project().run_server() as running, running.client(timeout=3) as client:
        client.get("/limits/keep_loop/")
        seen = request_concurrently(running, [f"/limits/{view}/"] * 2 * PROBE_THREADS, timeout=5)
        after = request_concurrently(running, ["/accounts/login/", "/probe/count/", "/readyz"], timeout=3)
        assert seen + after == [200] * (2 * PROBE_THREADS + 3), running.output[-3000:]
        # A thread of its own closes its connection, and PostgreSQL then ends the process of that connection.
        running.wait_until(lambda: connections() <= PROBE_THREADS + BACKGROUND_THREADS, seconds=5)


@pytest.mark.parametrize("view", ["hold", "sync_hold", "hold/one%0Aline"])
def test_exhausted_threads_are_reported(view: str, make_limits_project: Callable[..., Project]) -> None:
    """`/readyz` fails quickly with the reason; the log names the setting and the views that hold the threads, once."""
    with (
        make_limits_project().run_server() as running,
        running.client() as client,
        ThreadPoolExecutor(PROBE_THREADS + 2) as executor,
    ):
        assert client.get("/probe/count/").status_code == 200  # it releases its thread after its response
        held = [executor.submit(request_concurrently, running, [f"/limits/{view}/"], 30) for _ in range(PROBE_THREADS)]
        try:
            running.wait_until(lambda: is_at_limit(client), seconds=10)
            waiting = executor.submit(request_concurrently, running, ["/probe/count/"], 30)
            for _ in range(3):
                start = time.monotonic()
                ready = client.get("/readyz", timeout=3)
                assert time.monotonic() - start < 1.5
                assert (ready.status_code, ready.json()["failing"]) == (503, ["threads"])
            assert client.get("/livez").status_code == 200
            assert not waiting.done()
            running.wait_until(lambda: warnings(running), seconds=5)
        finally:
            client.get("/limits/release/")
        assert [task.result() for task in [*held, waiting]] == [[200]] * (PROBE_THREADS + 1)
        assert client.get("/readyz").json() == {"status": "ok", "failing": []}
        assert request_concurrently(running, ["/probe/count/"] * 2 * PROBE_THREADS) == [200] * 2 * PROBE_THREADS
        [warning] = warnings(running)
        assert re.findall(r"([A-Z]+ \S+) for \d\d? s", warning) == [f"GET /limits/{view}/"] * PROBE_THREADS


def is_at_limit(client: httpx.Client) -> bool:
    """Whether a view that needs a thread gets none."""
    try:
        client.get("/probe/count/", timeout=0.3)
    except httpx.ReadTimeout:
        return True
    return False


def warnings(running: Server) -> list[str]:
    return [line for line in running.output.splitlines() if "ASGI_THREADS" in line]


def test_many_plain_streams(make_limits_project: Callable[..., Project]) -> None:
    """A hundred of them, each with its own thread and connection as in Django, do not block other views."""
    # With PostgreSQL they would use up the connections of all tests; SQLite has no limit.
    project = make_limits_project(database="sqlite", database_url="sqlite:///db.sqlite3")
    with project.run_server() as running:
        asyncio.run(open_streams(running, ["plain_sync_stream", "plain_async_stream"], streams=100))
        with running.client() as client:
            running.wait_until(lambda: client.get("/limits/count_ended/").json() == {"ended": 100}, seconds=10)
            assert request_concurrently(running, ["/probe/count/"] * 2 * PROBE_THREADS) == [200] * 2 * PROBE_THREADS

            def count_threads() -> int:
                names = client.get("/probe/async_state/").json()["threads"]
                return len([name for name in names if name.startswith("asgi-")])

            # The last threads end a moment after their streams.
            running.wait_until(lambda: count_threads() <= PROBE_THREADS + BACKGROUND_THREADS, seconds=10)
        assert running.output.count("EventStreamResponse") == 1, running.output[-3000:]
        assert "Traceback" not in running.output


def test_threads_after_streams(make_limits_project: Callable[..., Project]) -> None:
    """All threads work again, whether requests waited for one meanwhile or not."""
    with make_limits_project().run_server() as running, running.client() as client:

        def count_threads() -> int:
            names = client.get("/probe/async_state/").json()["threads"]
            return len([name for name in names if re.fullmatch(r"asgi-\d+", name)])

        for _ in range(PROBE_THREADS + 1):
            assert client.get("/limits/quarter_second_stream/").text == "0\n0\n"
        for streams in (0, PROBE_THREADS):
            paths = ["/limits/quarter_second_stream/"] * streams + ["/probe/slow/"] * 2 * PROBE_THREADS
            assert request_concurrently(running, paths) == [200] * len(paths)
            running.wait_until(lambda: count_threads() == PROBE_THREADS, seconds=5)


def test_many_event_streams(make_limits_project: Callable[..., Project], connections: Callable[[], int]) -> None:
    """A thousand of them and 256 clients need few connections."""
    with make_limits_project().run_server() as running:
        most = asyncio.run(open_streams(running, ["event_stream"], 1000, clients=256, count_connections=connections))
        assert 1 <= most <= PROBE_THREADS + BACKGROUND_THREADS
        assert "Traceback" not in running.output
        assert "EventStreamResponse" not in running.output


async def open_streams(
    running: Server,
    views: list[str],
    streams: int,
    clients: int = 2,
    count_connections: Callable[[], int] = lambda: 0,
) -> int:
    """Open streams, request other views meanwhile, let them end; return the largest number of connections."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        await asyncio.wait_for(open_many(running, views, streams, opened), 60)
        seen = [await asyncio.to_thread(count_connections)]
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=running.url, headers=HEADERS, timeout=30, limits=limits) as client:
            asking = asyncio.gather(*[request_user_counts(client) for _ in range(clients)])
            seen.append(await asyncio.to_thread(count_connections))
            await asking
            await client.get("/limits/release/")
        rest = await asyncio.gather(*[asyncio.wait_for(reader.read(), 60) for reader, _ in opened])
        assert [part for part in rest if b"0\n" not in part] == []
        return max(*seen, await asyncio.to_thread(count_connections))
    finally:
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*[writer.wait_closed() for _, writer in opened], return_exceptions=True)


async def request_user_counts(client: httpx.AsyncClient) -> None:
    for path in ("/probe/count/", "/probe/async_count/"):
        assert (await client.get(path)).json() == {"users": 0}


async def open_many(
    running: Server, views: list[str], streams: int, opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> None:
    """Open streams, each until its first line. Plain sockets are used, since httpx is slower than the server."""

    async def open_one(view: str) -> None:
        async with at_once:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            opened.append((reader, writer))
            writer.write(request_head(view))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readuntil(b"0\n")

    at_once = asyncio.Semaphore(100)
    await asyncio.gather(*[open_one(views[number % len(views)]) for number in range(streams)])


def request_head(view: str, method: str = "GET") -> bytes:
    lines = [f"{method} /limits/{view}/ HTTP/1.1", *(f"{name}: {value}" for name, value in HEADERS.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


DOWNLOADS = ["download", "async_download", "iterator", "async_iterator"]


def test_large_files_and_slow_clients(make_limits_project: Callable[..., Project]) -> None:
    """Five slow clients of each kind of response make the process buffer no more than a few chunks each."""
    project = make_limits_project()
    content = os.urandom(FILE_BYTES)
    (project.path / "limits" / "large.bin").write_bytes(content)
    grown = {}
    with project.run_server() as running, running.client() as client:
        for view in DOWNLOADS:
            client.get("/probe/count/")
            before = memory_bytes(client)
            grown[view] = max(read_slowly(running, client, view, hashlib.sha256(content).digest())) - before
            head = client.head(f"/limits/{view}/")
            assert (head.status_code, head.content) == (200, b"")
            if "download" in view:
                assert head.headers["Content-Length"] == str(FILE_BYTES)
                part = client.get(f"/limits/{view}/", headers={"Range": "bytes=10-19"})
                assert part.content in (content, content[10:20])
        assert all(each < 15 * MEBIBYTE for each in grown.values()), {
            view: f"{each / MEBIBYTE:.0f} MiB" for view, each in grown.items()
        }
        assert "Warning" not in running.output
        assert "Traceback" not in running.output


def test_a_large_body_is_not_held_in_memory(make_limits_project: Callable[..., Project]) -> None:
    with make_limits_project().run_server() as running, running.client() as client:
        status = Path(f"/proc/{client.get('/probe/state/').json()['process']}/status")

        def most_memory() -> int:
            return 1024 * int(first_match(r"VmHWM:\s+(\d+) kB", status.read_text()))

        before = most_memory()
        assert client.post("/limits/nothing/", content=bytes(FILE_BYTES)).status_code == 403  # no token
        assert most_memory() - before < 15 * MEBIBYTE


def read_slowly(running: Server, client: httpx.Client, view: str, digest: bytes) -> list[int]:
    """Five clients read in turn, 2 MB each time; return the memory of the process after each of these."""
    seen = []
    sockets = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(5)]
    for each in sockets:
        each.sendall(request_head(view))
    assert client.get("/probe/count/").status_code == 200, "slow clients block others"
    readers = [each.makefile("rb") for each in sockets]
    hashes = [hashlib.sha256() for _ in sockets]
    bodies = [read_body(reader, 2_000_000) for reader in readers]
    for parts in zip(*bodies, strict=True):
        for hash_of_body, part in zip(hashes, parts, strict=True):
            hash_of_body.update(part)
        seen.append(memory_bytes(client))
    assert [each.digest() for each in hashes] == [digest] * len(hashes)
    for reader, sock in zip(readers, sockets, strict=True):
        reader.close()
        sock.close()
    return seen


def read_body(reader: BinaryIO, part_bytes: int) -> Iterator[bytes]:
    """Yield parts of the body of an HTTP/1.1 response, chunked or not."""
    head = b"".join(iter(reader.readline, b"\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    left, collected = FILE_BYTES, b""
    while left:
        size = int(reader.readline(), 16) if b"chunked" in head else min(left, 65536)
        collected += reader.read(size)
        if b"chunked" in head:
            reader.readline()
        left -= size
        if len(collected) >= part_bytes or not left:
            yield collected[:part_bytes]
            collected = collected[part_bytes:]
    if collected:
        yield collected


def memory_bytes(client: httpx.Client) -> int:
    """Return the resident memory of the server process."""
    process = client.get("/probe/state/").json()["process"]
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], check=True, capture_output=True, text=True)
    return int(shown.stdout) * 1024


def test_a_sync_stream_ends_on_disconnect(make_limits_project: Callable[..., Project]) -> None:
    with make_limits_project().run_server() as running, running.client() as client:
        for number in range(1, PROBE_THREADS + 2):
            left = socket.create_connection(("127.0.0.1", running.port), timeout=10)
            with left, left.makefile("rb") as received:
                left.sendall(request_head("endless_sync_stream"))
                # Read some parts first: an iterator that was never started has no cleanup.
                assert received.read(200_000).startswith(b"HTTP/1.1 200")
            ended = {"ended": number}
            running.wait_until(lambda: client.get("/limits/count_ended/").json() == ended, seconds=10)  # noqa: B023
        assert client.get("/probe/count/").json() == {"users": 0}
        assert "Traceback" not in running.output


def test_tasks_and_threads_of_a_view_can_read_its_request(make_limits_project: Callable[..., Project]) -> None:
    """They can read a small body at any time, and a large one, which is on disk, before the response, as in Django."""
    settings = "DATA_UPLOAD_MAX_MEMORY_SIZE = 10_000_000"
    with make_limits_project(settings=settings).run_server() as running, running.client() as client:
        for path, size in (("task", 20_000), ("thread", 20_000), ("task", 3_000_000)):
            text = "x" * size
            sent: dict[str, Any] = {
                "body": {"content": text.encode()},
                "POST": {"data": {"text": text}},
                "FILES": {"files": {"file": ("large.txt", text)}},
            }
            when = "at_once" if size > 1_000_000 else "answered"
            for what, body in sent.items():
                assert client.post(f"/limits/read_in_{path}/{what}/{when}/", **body).status_code == 202
                assert client.get("/limits/result/").json() == {"read": size}, (path, what)


def test_a_streams_own_close_runs_in_the_thread_of_its_view(make_limits_project: Callable[..., Project]) -> None:
    with make_limits_project().run_server() as running, running.client() as client:
        views = [client.get(f"/limits/{name}/").text for name in 10 * ["stream_with_close", "async_stream_with_close"]]

        def closed_in() -> Any:
            return client.get("/limits/closed_in_threads/").json()["threads"]

        running.wait_until(lambda: len(closed_in()) == len(views), seconds=5)
        assert sorted(closed_in()) == sorted(views)


def test_a_custom_streaming_response(make_limits_project: Callable[..., Project]) -> None:
    with make_limits_project().run_server() as running, running.client() as client:
        for path in ("/limits/bare_stream/", "/limits/async_bare_stream/"):
            response = client.get(path)
            assert (response.status_code, response.text) == (200, "first second"), running.output[-3000:]


def test_an_async_receiver_in_place_of_djangos(make_limits_project: Callable[..., Project]) -> None:
    project = make_limits_project()
    with (project.path / "limits" / "urls.py").open("a") as urls:
        urls.write("\nfrom .receivers import count_awaited\n\n")
        urls.write('urlpatterns.append(path("count_awaited/", count_awaited))\n')
    with project.run_server() as running, running.client() as client:
        before = client.get("/limits/count_awaited/").json()["awaited"]
        paths = {"/limits/nothing/": 200, "/missing/": 404, "/livez": 200, "/probe/count/": 200, "/readyz": 200}
        assert {path: client.get(path).status_code for path in paths} == paths, running.output[-3000:]
        # One call for the request above, one for each of these, and one for each poll.
        wanted = itertools.count(before + 1 + len(paths))
        running.wait_until(lambda: client.get("/limits/count_awaited/").json()["awaited"] >= next(wanted), seconds=10)
        assert "Traceback" not in running.output


def test_a_connection_keeps_no_state_of_a_request(make_limits_project: Callable[..., Project]) -> None:
    with make_limits_project().run_server() as running, running.client() as client:
        for what in ("debug", "wrappers", "panel"):
            paths = [f"/limits/mark_connection/{what}/", f"/limits/async_mark_connection/{what}/"] * PROBE_THREADS
            assert request_concurrently(running, paths) == [200] * len(paths)
            for _ in range(2 * PROBE_THREADS):
                seen = client.get("/limits/connection_state/").json()
                assert seen == {"debug": False, "wrappers": 0, "panel": None}, what


@pytest.mark.parametrize(("setting", "message_id"), [("ATOMIC_REQUESTS", "E003"), ("CONN_MAX_AGE", "W004")])
def test_checks_name_settings_that_break_asgi(setting: str, message_id: str, make_project: MakeProject) -> None:
    """With the first one Django answers each async view with 500; the second one leaks connections with Django's handler."""
    project = make_project()
    assert setting not in project.manage("check").stderr
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write(f'DATABASES["default"]["{setting}"] = 1\n')
    assert f"(serving.{message_id}) {setting} of database 'default'" in project.manage("check", check=False).stderr


@contextmanager
def redis_info(url: str) -> Iterator[Callable[[str], int]]:
    """`info(name)`: a number from a Redis's INFO, always over the same connection."""
    host, port = url.removeprefix("redis://").partition("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock, sock.makefile("rwb") as file:

        def info(name: str) -> int:
            file.write(b"INFO\r\n")
            file.flush()
            text = file.read(int(file.readline()[1:]) + 2).decode()
            return int(first_match(rf"^{name}:(\d+)", text))

        yield info


OTHER_REDIS_CACHES = """
CACHES = {{"default": {{"BACKEND": "{backend}", "LOCATION": "redis://localhost:6379/1"}}}}
"""


@pytest.mark.parametrize(
    "backend", ["page", *also_in_test_all("django_redis.cache.RedisCache", "django_valkey.cache.ValkeyCache")]
)
def test_redis_as_a_cache(backend: str, make_limits_project: Callable[..., Project], redis: StartRedis) -> None:
    """There are as many connections as threads, with Django's backend as in docs/reference/settings.md and with two others."""
    *_, pool, settings = code_blocks("settings.md", "python")
    if backend != "page":
        settings = OTHER_REDIS_CACHES.format(backend=backend)
    with redis() as (url, _):
        project = make_limits_project(settings=settings.replace("redis://localhost:6379/1", url))
        (project.path / "wiki" / "cache.py").write_text(pool)
        with project.run_server() as running, redis_info(url) as info:
            before = info("total_connections_received")
            if backend != "page":  # two threads at once may each create the first pool
                httpx.get(f"{running.url}/limits/cache_get/", headers=HEADERS)
            seen = asyncio.run(send_requests(running, ["/limits/cache_get/", "/limits/async_cache_get/"], 32, 31))
            assert seen == {200: 992}, running.output[-3000:]
            assert 1 <= info("total_connections_received") - before <= PROBE_THREADS
            assert info("connected_clients") <= PROBE_THREADS + 1


@pytest.mark.skipif("5.2" not in CHOICES["django_version"], reason="Django has a policy of its own since 6.0")
def test_a_policy_that_depends_on_the_request(make_limits_project: Callable[..., Project]) -> None:
    """`get_policy_parts` gets each request; a nonce that is read too late raises an error, as in django-csp."""
    names = '"limits.policy.LateNonceMiddleware", "limits.policy.RequestPolicyMiddleware"'
    ours = "wiki.serving.csp.CSPMiddleware"
    project = make_limits_project(settings=f'at = MIDDLEWARE.index("{ours}")\nMIDDLEWARE[at : at + 1] = [{names}]')
    with project.run_server() as running, running.client() as client:
        for path in ("/limits/nothing/", "/limits/connection_state/"):
            for number in range(4):
                response = client.get(path, params={"source": f"https://{number}.example.com"})
                policy = response.headers["Content-Security-Policy"]
                assert f"connect-src https://{number}.example.com GET" in policy
                assert response.headers["X-Nonce"] == "CSPNonceError"


@pytest.mark.skipif("5.2" not in CHOICES["django_version"], reason="Django has a policy of its own since 6.0")
def test_a_late_nonce_with_the_projects_own_policy(make_limits_project: Callable[..., Project]) -> None:
    ours = "wiki.serving.csp.CSPMiddleware"
    added = f'MIDDLEWARE.insert(MIDDLEWARE.index("{ours}"), "limits.policy.LateNonceMiddleware")'
    with make_limits_project(settings=added).run_server() as running, running.client() as client:
        for path in 2 * ["/limits/nothing/", "/limits/connection_state/"]:
            assert client.get(path).headers["X-Nonce"] == "CSPNonceError"
