"""Tests of the app `status`: when you replace its pages, replace or delete this file."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import OperationalError
from django.test import AsyncClient, Client
from django.utils import timezone
from django.utils.html import escape
from django_tasks_db.models import DBTaskResult
from pytest_django import Settings

from status import addresses, checks, events, tasks, views
from status.management.commands import check_services
from status.models import Lease, Result, Service

pytestmark = pytest.mark.django_db(transaction=True)


class Site(ThreadingHTTPServer):
    """Responds with the status in the path after `before_response` returns."""

    before_response: Callable[["Handler"], object]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.before_response = lambda handler: None


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.before_response(self)
        with suppress(OSError):  # the client has disconnected
            self.send_response(int(self.path.split("/")[1]))
            self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield server
        server.shutdown()


class Clock:
    """Replaces the module `time`: only the services let time pass."""

    def __init__(self) -> None:
        self.now, self.lock = 0.0, threading.Lock()

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (checks, views):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def local_addresses(settings: Settings) -> None:
    """The services in these tests have local addresses."""
    settings.STATUS_ALLOW_LOCAL_ADDRESSES = True


@pytest.fixture
def services(site: Site, clock: Clock) -> list[Service]:
    urls = {"up": f"{site.url}/200", "moved": f"{site.url}/301", "bad request": f"{site.url}/400"}
    urls |= {"away": "http://127.0.0.1:1/", "not HTTP": "ftp://127.0.0.1/", "no URL": "http://[/"}
    urls["no port"] = "http://localhost:99999/"
    return [Service.objects.create(name=name, url=url) for name, url in urls.items()]


STATES = {"up": "up", "moved": "up", "bad request": "down"}
STATES |= {"away": "down", "not HTTP": "down", "no URL": "down", "no port": "down"}

Check = Callable[[list[Service]], list[Result]]
sequentially_and_concurrently = pytest.mark.parametrize(
    "check",
    [checks.check_sequentially, async_to_sync(checks.check_concurrently)],
    ids=["sequentially", "concurrently"],
)


@sequentially_and_concurrently
def test_states(check: Check, services: list[Service]) -> None:
    results = check(services)
    assert {result.service.name: result.state for result in results} == STATES
    assert [result.detail for result in results[:4]] == ["200", "301", "400", "ConnectError"]


@sequentially_and_concurrently
@pytest.mark.parametrize(("milliseconds", "state"), [(999, "up"), (1000, "slow")])
def test_slow_services(
    check: Check, milliseconds: int, state: str, site: Site, clock: Clock
) -> None:
    user_agents = []

    def respond_late(handler: Handler) -> None:
        clock.advance(milliseconds / 1000)
        user_agents.append(handler.headers["User-Agent"])

    site.before_response = respond_late
    [result] = check([Service(url=f"{site.url}/200")])
    assert user_agents == ["status board"]
    assert (result.state, result.milliseconds) == (state, milliseconds)


@sequentially_and_concurrently
def test_deadline(check: Check, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that sends single bytes, but no response, does not delay the check."""
    monkeypatch.setattr(checks, "CHECK_TIMEOUT_SECONDS", 0.2)
    checked = threading.Event()

    def drip(handler: Handler) -> None:
        for _ in range(100):
            with suppress(OSError):
                handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            if checked.wait(0.02):
                break

    site.before_response = drip
    [result] = check([Service(url=f"{site.url}/200")])
    checked.set()
    assert (result.state, result.detail) == ("down", "TimeoutError")


@sequentially_and_concurrently
def test_local_addresses(check: Check, site: Site, settings: Settings) -> None:
    """Local services are rejected by address and by name, without a request."""
    settings.STATUS_ALLOW_LOCAL_ADDRESSES = False
    requests: list[Handler] = []
    site.before_response = requests.append
    hosts = ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "0", "localhost"]
    results = check([Service(url=f"http://{host}:{site.server_port}/200") for host in hosts])
    assert {result.state for result in results} == {"down"}
    assert {result.detail for result in results} <= {"ValidationError", "LocalAddressError"}
    assert not requests


def test_dns_rebinding(site: Site, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.STATUS_ALLOW_LOCAL_ADDRESSES = False
    monkeypatch.setattr(addresses, "resolve", AsyncMock(return_value=["192.0.2.1"]))
    monkeypatch.setattr(checks, "validate_url", lambda url: None)
    requests: list[Handler] = []
    site.before_response = requests.append
    [result] = checks.check_sequentially([Service(url=f"{site.url}/200")])
    assert (result.detail, requests) == ("LocalAddressError", [])


def test_redirects_are_not_followed(site: Site) -> None:
    paths: list[str] = []

    def redirect(handler: Handler) -> None:
        paths.append(handler.path)
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /200\r\nContent-Length: 0\r\n\r\n")

    site.before_response = redirect
    [result] = checks.check_sequentially([Service(url=f"{site.url}/302")])
    assert (result.detail, paths) == ("302", ["/302"])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://ada:secret@example.com/", "Remove the credentials"),
        ("https://token@example.com/", "Remove the credentials"),
        ("ftp://example.com/", "http:// or https://"),
        ("http://example.com:port/", "not a URL"),
        ("http://127.0.0.1/", "loopback or link-local"),
        ("http://[::1]:8000/", "loopback or link-local"),
        ("http://169.254.169.254/latest/", "loopback or link-local"),
        ("http://[fe80::1]/", "loopback or link-local"),
        ("http://app.localhost/", "loopback or link-local"),
    ],
)
def test_invalid_urls(url: str, reason: str, settings: Settings) -> None:
    settings.STATUS_ALLOW_LOCAL_ADDRESSES = False
    with pytest.raises(ValidationError, match=reason):
        Service(name="site", url=url).full_clean()


def test_valid_urls(settings: Settings) -> None:
    Service(name="site", url="http://127.0.0.1/").full_clean()
    settings.STATUS_ALLOW_LOCAL_ADDRESSES = False
    for url in ("https://example.com/@ada?a=b@c", "http://10.0.0.7:8000/", "http://[2001:db8::1]/"):
        service = Service(name="site", url=url)
        service.full_clean()
        assert service.public_url == url


def test_board_without_credentials(client: Client) -> None:
    Service.objects.create(name="site", url="http://ada:secret@example.com/@bob")
    page = client.get("/").text
    assert 'href="http://example.com/@bob"' in page
    assert "secret" not in page


def test_checker(services: list[Service], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "status")
    old, kept = (
        Result.objects.create(service=services[0], state="up", milliseconds=1, detail="200")
        for _ in range(2)
    )
    for result, age in ((old, timedelta(days=2)), (kept, timedelta(days=1, hours=23))):
        Result.objects.filter(id=result.id).update(checked=timezone.now() - age)
    call_command("check_services", "--once", "--interval", "0.5")
    assert f"Checked {len(services)} services" in caplog.text
    assert not Result.objects.filter(id=old.id).exists()
    results = Result.objects.exclude(id=kept.id).select_related("service")
    assert {result.service.name: result.state for result in results} == STATES
    assert len(results) == Result.objects.count() - 1 == len(STATES)
    assert not Lease.objects.exists()


async def test_failed_check_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next check run still starts."""
    runs: list[int] = []
    second = asyncio.Event()

    async def run_checks() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise OperationalError("away")
        second.set()

    monkeypatch.setattr(check_services, "run_checks", run_checks)
    checker = asyncio.create_task(check_services.check_services(interval=0))
    is_set = asyncio.create_task(second.wait())
    await asyncio.wait({checker, is_set}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert second.is_set()
    assert "A check run failed" in caplog.text
    checker.cancel()
    with suppress(asyncio.CancelledError):
        await checker
    assert not await Lease.objects.aexists()


async def test_lease_lasts_until_the_next_check_run(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining = []

    async def run_checks() -> None:
        lease = await Lease.objects.aget()
        remaining.append((lease.expires - timezone.now()).total_seconds())

    monkeypatch.setattr(check_services, "run_checks", run_checks)
    await check_services.check_services(interval=1000, once=True)
    assert remaining[0] > 1000 + check_services.CHECK_RUN_TIMEOUT_SECONDS


async def test_hanging_check_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*args: object, **options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(check_services, "CHECK_RUN_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(check_services, "check_concurrently", hang)
    check_run = asyncio.create_task(check_services.run_checks())
    await asyncio.wait({check_run}, timeout=5)
    assert check_run.done()
    assert isinstance(check_run.exception(), TimeoutError)


async def test_service_deleted_during_check(site: Site) -> None:
    await get_user_model().objects.acreate_user("ada", "ada@example.com", is_staff=True)
    gone = await Service.objects.acreate(name="gone", url="http://127.0.0.1:1/")
    other = await Service.objects.acreate(name="other", url=f"{site.url}/200")
    await Service.objects.filter(id=gone.id).adelete()
    await checks.check_concurrently([gone, other], save=True)
    assert [result.service_id async for result in Result.objects.all()] == [other.id]
    assert not await DBTaskResult.objects.aexists()


def test_staff_are_notified(mailoutbox: list[EmailMessage]) -> None:
    service = Service.objects.create(name="shop", url="http://127.0.0.1:1/")
    users = get_user_model().objects
    users.create_user("ada", "ada@example.com", is_staff=True)
    users.create_user("bob", is_staff=True)
    users.create_user("eve", "eve@example.com")
    users.create_user("joe", "joe@example.com", is_staff=True, is_active=False)
    for state in ("up", "down", "down", "slow", "up"):
        checks.save_result(Result(service=service, state=state, milliseconds=7, detail="200"))
    waiting = DBTaskResult.objects.ready().order_by("enqueued_at")
    assert len(waiting) == 2
    for task in waiting:
        task.task.call(*task.args_kwargs["args"])
    assert [(mail.subject, mail.to) for mail in mailoutbox] == [
        ("shop is down", ["ada@example.com"]),
        ("shop is up again", ["ada@example.com"]),
    ]
    assert mailoutbox[0].body == "http://127.0.0.1:1/: 200, after 7 ms."


async def test_failed_tasks_are_retried() -> None:
    now = timezone.now()
    states: dict[str, dict[str, object]] = {
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
        "done": {
            "status": "SUCCESSFUL",
            "started_at": now - timedelta(minutes=3),
            "finished_at": now,
        },
        "long done": {"status": "SUCCESSFUL", "enqueued_at": now - timedelta(days=2)},
    }
    ids = {name: (await tasks.mail.aenqueue("ada@example.com", name, "")).id for name in states}
    for name, state in states.items():
        await DBTaskResult.objects.filter(id=ids[name]).aupdate(**state)
    await tasks.retry_failed_tasks()
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


@sequentially_and_concurrently
def test_waiting_for_other_checks_is_not_measured(
    check: Check, site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MAX_CONCURRENT_CHECKS", 1)
    site.before_response = lambda handler: clock.advance(0.5)
    results = check([Service(url=f"{site.url}/200")] * 3)
    assert [result.milliseconds for result in results] == [500] * 3


async def test_concurrent_checks_are_limited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_CONCURRENT_CHECKS", 2)
    requests, may_respond = threading.Semaphore(0), threading.Event()

    def hold(handler: Handler) -> None:
        requests.release()
        may_respond.wait(5)

    site.before_response = hold
    services = [Service(name=str(number), url=f"{site.url}/200") for number in range(6)]
    checking = asyncio.create_task(checks.check_concurrently(services))
    for _ in range(2):
        assert await asyncio.to_thread(requests.acquire, timeout=5)
    assert not await asyncio.to_thread(requests.acquire, timeout=0.2), "a third one"
    may_respond.set()
    assert [result.service for result in await checking] == services


async def test_one_checker_at_a_time(services: list[Service]) -> None:
    first, second = uuid4(), uuid4()
    assert await Lease.acquire(first, 60)
    assert await Lease.acquire(first, 60)
    assert not await Lease.acquire(second, 60)
    await check_services.check_services(interval=0, once=True)
    assert not await Result.objects.aexists()
    await Lease.release(second)
    assert not await Lease.acquire(second, 60)
    await Lease.release(first)
    assert await Lease.acquire(second, -1)
    assert await Lease.acquire(first, 60), "the second one died"
    assert not await Lease.acquire(second, 60)


def test_board(client: Client, services: list[Service]) -> None:
    assert "not checked recently" in client.get("/").text
    up: dict[str, Any] = {"service": services[0], "state": "up", "detail": "200"}
    for number in range(40):
        last_result = Result.objects.create(milliseconds=number * 50, **up)
    page = client.get("/")
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in page.text
    assert "1950 ms, 200" in page.text
    heights = [int(height) for height in re.findall(r'height="(\d+)"></rect>', page.text)]
    assert len(heights) == 30
    assert heights == sorted(heights)
    assert f'data-events="/events/?after={last_result.id}"' in page.text


async def test_signed_in_user(async_client: AsyncClient) -> None:
    await async_client.aforce_login(await get_user_model().objects.acreate_user("ada"))
    assert ">ada</a>" in (await async_client.get("/")).content.decode()


def test_board_with_old_results(client: Client, services: list[Service]) -> None:
    old = Result.objects.create(service=services[0], state="up", milliseconds=1, detail="200")
    Result.objects.update(checked=timezone.now() - timedelta(hours=2))
    page = client.get("/")
    assert page.text.count("not checked recently") == len(services)
    assert f'data-events="/events/?after={old.id}"' in page.text


def test_board_without_services(client: Client) -> None:
    page = client.get("/")
    assert "There are no services yet" in page.text
    assert 'data-events="/events/?after=0"' in page.text


async def stream(
    async_client: AsyncClient, count: int, path: str = "/events/", **headers: str
) -> list[str]:
    """Return the first events of the stream."""
    response: Any = await async_client.get(path, headers=headers)
    assert response.headers["Content-Type"] == "text/event-stream"
    chunks = response.streaming_content
    await anext(chunks)  # a comment
    seen = [(await asyncio.wait_for(anext(chunks), 5)).decode() for _ in range(count)]
    await response.aclose()
    return seen


async def test_events(async_client: AsyncClient) -> None:
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


async def test_events_after_a_long_absence(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_MISSED_RESULTS", 3)
    service = await Service.objects.acreate(name="up", url="http://127.0.0.1:1/")
    up: dict[str, Any] = {
        "service": service,
        "state": "up",
        "milliseconds": 1,
        "detail": "200",
    }
    ids = [(await Result.objects.acreate(**up)).id for _ in range(5)]
    _, *chunks = await stream(async_client, 4, "/events/?after=0")
    sent = [int(chunk.split("\n")[0].removeprefix("id: ")) for chunk in chunks]
    assert sent == ids[-3:]


@pytest.mark.parametrize("after", ["", "x", "-1", "9" * 19, "9" * 5000])
async def test_events_from_now_on(async_client: AsyncClient, after: str) -> None:
    service = await Service.objects.acreate(name="up", url="http://127.0.0.1:1/")
    up: dict[str, Any] = {
        "service": service,
        "state": "up",
        "milliseconds": 1,
        "detail": "200",
    }
    await Result.objects.acreate(**up)
    response: Any = await async_client.get("/events/", headers={"Last-Event-ID": after})
    chunks = response.streaming_content
    for _ in range(2):
        await anext(chunks)
    # The first result may be saved before the stream subscribes, which then queries the database.
    for _ in range(3):
        new = Result(**up)
        await sync_to_async(checks.save_result)(new)
        chunk = await asyncio.wait_for(anext(chunks), 5)
        assert chunk.startswith(f"id: {new.id}\n".encode())
    await response.aclose()


@pytest.mark.parametrize(("view", "slowest"), [("sync", "up"), ("async", "slow")])
async def test_comparison(
    async_client: AsyncClient,
    view: str,
    slowest: str,
    site: Site,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The services are slow only if they are checked concurrently, as `/async/` does."""
    monkeypatch.setattr(views, "MAX_COMPARED_SERVICES", 3)
    for number in range(4):
        await Service.objects.acreate(name=str(number), url=f"{site.url}/200/{number}")
    site.before_response = lambda handler: clock.advance(0.5)
    cache.set(f"comparing-{view}", True)
    busy = await async_client.get(f"/{view}/")
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "5")
    assert busy.json()["error"].startswith("A comparison is already running.")
    cache.delete(f"comparing-{view}")
    for _ in range(2):
        answer = (await async_client.get(f"/{view}/")).json()
        assert set(answer["services"]) == {"0", "1", "2"}
        assert min(answer["services"].values()) == slowest
        assert answer["milliseconds"] == 1500
