import asyncio
import json
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections
from django.utils import timezone
from django.utils.html import escape
from django_tasks_db.models import DBTaskResult

from accounts.models import User
from status import checks, events, tasks
from status.management.commands import check_services
from status.models import Lease, Result, Service

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module", autouse=True)
def close_connections():
    """Of the thread that async tests use: PostgreSQL does not drop a database that is in use."""
    yield
    asyncio.run(sync_to_async(connections.close_all)())


class Site(BaseHTTPRequestHandler):
    """Answers with the status that the path names, after as many ms as it says: /200/50.

    If it says `never`, that is after the last test.
    """

    the_end = threading.Event()

    def do_GET(self):
        _, status, wait = self.path.split("/")
        self.the_end.wait(None if wait == "never" else int(wait) / 1000)
        self.send_response(int(status))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Site.the_end.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_looked_up(monkeypatch):
    monkeypatch.setattr(events, "newest", events.Newest())
    monkeypatch.setattr(events, "LOOK", 0.05)


@pytest.fixture
def services(site, monkeypatch):
    # However slow this machine is, only what never answers takes so long.
    monkeypatch.setattr(checks, "SLOW", 60_000)
    monkeypatch.setattr(checks, "LIMIT", 2)
    paths = {"up": "200/0", "moved": "301/0", "broken": "500/0", "hangs": "200/never"}
    urls = {name: f"{site}/{path}" for name, path in paths.items()}
    urls |= {"away": "http://127.0.0.1:1/", "not HTTP": "ftp://127.0.0.1/", "no URL": "http://[/"}
    urls["no port"] = "http://localhost:99999/"
    return [Service.objects.create(name=name, url=url) for name, url in urls.items()]


STATES = {"up": "up", "moved": "up", "broken": "down", "hangs": "down"}
STATES |= {"away": "down", "not HTTP": "down", "no URL": "down", "no port": "down"}


@pytest.mark.parametrize(("milliseconds", "state"), [(999, "up"), (1000, "slow")])
def test_slow_services(milliseconds, state, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 10 + milliseconds / 1000)
    result = checks.judge(Service(), start=10, status=200)
    assert (result.state, result.milliseconds) == (state, milliseconds)


def test_checker(services):
    old = Result.objects.create(service=services[0], state="up", milliseconds=1, detail="200")
    Result.objects.filter(id=old.id).update(checked=timezone.now() - timedelta(days=3))
    call_command("check_services", "--once")
    results = Result.objects.select_related("service")
    assert {result.service.name: result.state for result in results} == STATES
    assert not results.filter(id=old.id).exists()
    assert not Lease.objects.exists()


def test_staff_are_told_of_changes(mailoutbox):
    service = Service.objects.create(name="shop", url="http://127.0.0.1:1/")
    User.objects.create_user("ada", "ada@example.com", is_staff=True)
    User.objects.create_user("bob", is_staff=True)
    User.objects.create_user("eve", "eve@example.com")
    for state in ("up", "down", "down", "slow", "up"):
        checks.keep(Result(service=service, state=state, milliseconds=7, detail="200"))
    waiting = DBTaskResult.objects.ready().order_by("enqueued_at")
    for task in waiting:
        task.task.call(*task.args_kwargs["args"])
    assert [(mail.subject, mail.to) for mail in mailoutbox] == [
        ("shop is down", ["ada@example.com"]),
        ("shop is up again", ["ada@example.com"]),
    ]
    assert mailoutbox[0].body == "http://127.0.0.1:1/: 200, after 7 ms."


async def test_tasks_are_tried_again():
    now = timezone.now()
    states = {
        "waiting": {"enqueued_at": now - timedelta(days=2)},
        "running": {"status": "RUNNING", "started_at": now},
        "killed": {"status": "RUNNING", "started_at": now - timedelta(minutes=3)},
        "failed": {"status": "FAILED", "finished_at": now},
        "given up": {
            "status": "FAILED",
            "finished_at": now,
            "enqueued_at": now - timedelta(days=2),
        },
        "killed long ago": {
            "status": "RUNNING",
            "started_at": now - timedelta(minutes=3),
            "enqueued_at": now - timedelta(days=2),
        },
        "done": {"status": "SUCCESSFUL", "finished_at": now},
        "long done": {"status": "SUCCESSFUL", "enqueued_at": now - timedelta(days=2)},
    }
    ids = {name: (await tasks.mail.aenqueue("ada@example.com", name, "")).id for name in states}
    for name, state in states.items():
        await DBTaskResult.objects.filter(id=ids[name]).aupdate(**state)
    await tasks.try_again()
    statuses = {str(task.id): task.status async for task in DBTaskResult.objects.all()}
    assert {name: statuses.get(ids[name]) for name in states} == {
        "waiting": "READY",
        "running": "RUNNING",
        "killed": "READY",
        "failed": "READY",
        "given up": None,
        "killed long ago": None,
        "done": "SUCCESSFUL",
        "long done": None,
    }


def test_one_after_the_other(services):
    results = checks.one_after_the_other(services)
    assert {result.service.name: result.state for result in results} == STATES


async def test_bound_on_requests(site, monkeypatch):
    monkeypatch.setattr(checks, "AT_ONCE", 2)
    services = [Service(name=str(number), url=f"{site}/200/100") for number in range(6)]
    start = time.perf_counter()
    results = await checks.all_at_once(services)
    assert time.perf_counter() - start >= 0.3
    assert [result.service for result in results] == services
    assert not any(result.milliseconds >= 200 for result in results), "waiting counts"


async def test_one_checker_at_a_time(services):
    first, second = uuid4(), uuid4()
    assert await Lease.take(first, 60)
    assert await Lease.take(first, 60)
    assert not await Lease.take(second, 60)
    await check_services.check_services(interval=0, once=True)
    assert not await Result.objects.aexists()
    await Lease.give_back(second)
    assert not await Lease.take(second, 60)
    await Lease.give_back(first)
    assert await Lease.take(second, -1)
    assert await Lease.take(first, 60), "the second one died"


def test_board(client, services):
    assert "not checked lately" in client.get("/").text
    up = {"service": services[0], "state": "up", "detail": "200"}
    for number in range(40):
        last = Result.objects.create(milliseconds=number, **up)
    page = client.get("/")
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in page.text
    assert "39 ms, 200" in page.text
    assert page.text.count("<rect class") == 30
    assert f'data-events="/events/?after={last.id}"' in page.text


def test_board_of_old_results(client, services):
    old = Result.objects.create(service=services[0], state="up", milliseconds=1, detail="200")
    Result.objects.update(checked=timezone.now() - timedelta(hours=2))
    page = client.get("/")
    assert page.text.count("not checked lately") == len(services)
    assert f'data-events="/events/?after={old.id}"' in page.text


def test_board_without_services(client):
    assert "There are no services yet" in client.get("/").text


async def stream(async_client, count, path="/events/", **headers):
    """The first chunks of the event stream."""
    response = await async_client.get(path, headers=headers)
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    chunks = response.streaming_content
    seen = [(await asyncio.wait_for(anext(chunks), 5)).decode() for _ in range(count)]
    await chunks.aclose()
    return seen


async def test_events(async_client):
    service = await Service.objects.acreate(name="up", url="http://127.0.0.1:1/")
    results = [
        await Result.objects.acreate(service=service, state="up", milliseconds=number, detail="200")
        for number in range(3)
    ]
    first, *_, last = [result.id for result in results]
    hello, *chunks = await stream(async_client, 3, f"/events/?after={first}")
    assert hello == "retry: 2000\n\n"
    assert [int(chunk.split("\n")[0].removeprefix("id: ")) for chunk in chunks] == [first + 1, last]
    assert json.loads(chunks[-1].split("data: ")[1]) == {
        "id": last,
        "service": service.id,
        "state": "up",
        "milliseconds": 2,
        "detail": "200",
        "height": 1,
        "checked": results[-1].checked.isoformat(),
    }
    _, chunk = await stream(
        async_client, 2, "/events/?after=0", **{"Last-Event-ID": str(first + 1)}
    )
    assert chunk.startswith(f"id: {last}\n")


@pytest.mark.parametrize("after", ["", "x", "-1", "9" * 30])
async def test_events_from_now_on(async_client, after, monkeypatch):
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.2)
    service = await Service.objects.acreate(name="up", url="http://127.0.0.1:1/")
    await Result.objects.acreate(service=service, state="up", milliseconds=1, detail="200")
    chunks = await stream(async_client, 3, **{"Last-Event-ID": after})
    assert chunks[1:] == [": still here\n\n"] * 2


@pytest.mark.parametrize(("view", "least"), [("sync", 450), ("async", 150)])
async def test_comparison(async_client, site, view, least):
    for number in range(3):
        await Service.objects.acreate(name=str(number), url=f"{site}/200/15{number}")
    cache.set(f"comparing-{view}", True)
    busy = await async_client.get(f"/{view}/")
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "5")
    cache.delete(f"comparing-{view}")
    for _ in range(2):
        answer = (await async_client.get(f"/{view}/")).json()
        assert answer["services"] == {"0": "up", "1": "up", "2": "up"}
        assert answer["milliseconds"] >= least
