"""Tests of the app `notifications`: when you replace its pages, replace or delete this file."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.shortcuts import render
from django.test import AsyncClient, AsyncRequestFactory, Client
from pytest_django import DjangoAssertNumQueries

from notifications import events, notify
from notifications.models import Announcement, Notification

pytestmark = pytest.mark.django_db

ELSEWHERE = [
    "https://example.com/",
    "//example.com/",
    "///example.com/",
    "/\\example.com/",
    "/\t/example.com/",
    "\n//example.com/",
    "javascript:alert(1)",
    " javascript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,hello",
    "example.com",
]


class Rollback(Exception):
    pass


class Page:
    """An open page: a signed-in client and its event stream."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.chunks = chunks

    async def next_chunk(self) -> str:
        async with asyncio.timeout(10):
            return (await anext(self.chunks)).decode()

    async def next_event(self) -> dict[str, Any]:
        while not (chunk := await self.next_chunk()).startswith("id: "):
            pass
        data: dict[str, Any] = json.loads(chunk.split("data: ")[1])
        return data

    async def has_event(self) -> bool:
        try:
            async with asyncio.timeout(0.5):
                await self.next_event()
        except TimeoutError:
            return False
        return True


@pytest.fixture
def ada(db: None) -> Any:
    return get_user_model().objects.create_user("ada")


@pytest.fixture
def grace(db: None) -> Any:
    return get_user_model().objects.create_user("grace")


@asynccontextmanager
async def open_page(
    user: Any, query: str = "", client: AsyncClient | None = None
) -> AsyncIterator[Page]:
    client = client or AsyncClient()
    await client.aforce_login(user)
    response: Any = await client.get(f"/notifications/events/?user={user.pk}{query}")
    assert response.headers["Content-Type"] == "text/event-stream"
    yield Page(response.streaming_content)
    await response.aclose()


async def test_all_open_pages_of_the_user(ada: Any, grace: Any) -> None:
    async with open_page(ada) as first, open_page(ada) as second, open_page(grace) as other:
        for page in (first, second, other):
            assert await page.next_event() == {"unread": 0, "new": []}
        stored = await notify.notify(ada, "hello", "/accounts/")
        expected = {"unread": 1, "new": [{"text": "hello", "url": "/accounts/"}]}
        for page in (first, second):
            assert await page.next_event() == expected
        await sync_to_async(notify.mark_as_read)(ada.pk, id=stored.id)
        for page in (first, second):
            assert await page.next_event() == {"unread": 0, "new": []}
        assert not await other.has_event()


async def test_reconnect(ada: Any) -> None:
    first, _, third = [await notify.notify(ada, text) for text in ("one", "two", "three")]
    await sync_to_async(notify.mark_as_read)(ada.pk, id=third.id)
    async with open_page(ada, f"&after={first.id}") as page:
        assert await page.next_event() == {"unread": 2, "new": [{"text": "two", "url": ""}]}


@pytest.mark.parametrize("after", ["", "&after=", "&after=x", f"&after={'9' * 18}"])
async def test_first_connection(ada: Any, after: str) -> None:
    await notify.notify(ada, "old")
    async with open_page(ada, after) as page:
        assert await page.next_event() == {"unread": 1, "new": []}
        await notify.notify(ada, "new")
        assert await page.next_event() == {"unread": 2, "new": [{"text": "new", "url": ""}]}


async def test_late_commit(ada: Any) -> None:
    """A notification that is committed late has a lower id than one that the page received."""
    async with open_page(ada) as page:
        assert await page.next_event() == {"unread": 0, "new": []}
        await Notification.objects.acreate(id=1_000_001, user=ada, text="second")
        late = Notification(id=1_000_000, user=ada, text="first")
        await notify.notify(ada, "third")
        texts = [each["text"] for each in (await page.next_event())["new"]]
        assert sorted(texts) == ["second", "third"]
        await late.asave(force_insert=True)
        await notify.notify(ada, "fourth")
        texts = [each["text"] for each in (await page.next_event())["new"]]
        assert sorted(texts) == ["first", "fourth"]


async def test_rollback(ada: Any) -> None:
    @transaction.atomic
    def fail() -> None:
        notify.notify_sync(ada, "never")
        raise Rollback

    async with open_page(ada) as page:
        await page.next_event()
        with pytest.raises(Rollback):
            await sync_to_async(fail)()
        await notify.notify(ada, "hello")
        assert [each["text"] for each in (await page.next_event())["new"]] == ["hello"]


async def check_signed_out(client: AsyncClient, query: str) -> None:
    response: Any = await client.get(f"/notifications/events/{query}")
    page = Page(response.streaming_content)
    chunks = [await page.next_chunk() for _ in range(2)]
    assert chunks[1] == "event: signed-out\ndata: Sign in to receive notifications.\n\n"
    with pytest.raises(StopAsyncIteration):
        await page.next_chunk()


async def sign_out(client: AsyncClient, user: Any) -> None:
    await client.post("/accounts/logout/")


async def sign_in_as_another(client: AsyncClient, user: Any) -> None:
    await client.aforce_login(await get_user_model().objects.acreate_user("eve"))


async def deactivate(client: AsyncClient, user: Any) -> None:
    await type(user).objects.filter(pk=user.pk).aupdate(is_active=False)


async def change_password(client: AsyncClient, user: Any) -> None:
    user.set_password("difference-engine")
    await user.asave()


async def delete(client: AsyncClient, user: Any) -> None:
    await user.adelete()


@pytest.mark.parametrize("seconds", [0.1, 60])
@pytest.mark.parametrize("end", [sign_out, sign_in_as_another, deactivate, change_password, delete])
async def test_end_of_a_users_session(
    end: Callable[[AsyncClient, Any], Awaitable[None]],
    seconds: float,
    ada: Any,
    async_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next check ends the stream. So does the next notification, which is not sent."""
    monkeypatch.setattr(events, "SESSION_CHECK_SECONDS", seconds)
    async with open_page(ada, client=async_client) as page:
        await page.next_event()
        await end(async_client, ada)
        if seconds == 60:
            if end is not delete:
                await Notification.objects.acreate(user=ada, text="secret")
            await sync_to_async(notify.notify_all)("secret")
        with pytest.raises(StopAsyncIteration):
            await page.next_chunk()
        await check_signed_out(async_client, f"?user={ada.pk}")


@pytest.mark.parametrize("query", ["", "?user=", "?user=None", "?user={grace}", "?user=x"])
async def test_only_the_users_own_stream(query: str, ada: Any, grace: Any) -> None:
    signed_in = AsyncClient()
    await signed_in.aforce_login(ada)
    for client in (signed_in, AsyncClient()):
        await check_signed_out(client, query.format(grace=grace.pk))


@pytest.mark.parametrize("url", ELSEWHERE)
def test_urls_of_other_sites(url: str, ada: Any, client: Client) -> None:
    with pytest.raises(ValidationError, match="is not a path on this site, such as /accounts/"):
        notify.notify_sync(ada, "hello", url)
    with pytest.raises(ValidationError, match="is not a path on this site"):
        notify.notify_all("hello", url)
    assert not Notification.objects.exists()
    client.force_login(ada)
    unchecked = Notification.objects.create(user=ada, text="hello", url=url)
    assert url not in client.get("/notifications/").text
    assert client.post(f"/notifications/{unchecked.id}/read/")["Location"] == "/notifications/"


@pytest.mark.parametrize(("text", "url"), [("", ""), ("x" * 501, ""), ("x", "/" + "x" * 500)])
def test_invalid_texts(text: str, url: str, ada: Any) -> None:
    for call in (lambda: notify.notify_sync(ada, text, url), lambda: notify.notify_all(text, url)):
        with pytest.raises(ValidationError):
            call()


def test_list(client: Client, ada: Any, grace: Any) -> None:
    notify.notify_sync(grace, "for grace")
    for number in range(25):
        notify.notify_sync(ada, f"<b>{number}</b>", "/accounts/")
    client.force_login(ada)
    first, second = [client.get("/notifications/", {"page": page}).text for page in (1, 2)]
    assert "&lt;b&gt;24&lt;/b&gt;" in first
    assert "&lt;b&gt;0&lt;/b&gt;" in second
    assert "for grace" not in first + second
    assert first.count("Mark as read<") == 20


def test_reading(client: Client, ada: Any, grace: Any) -> None:
    theirs = notify.notify_sync(grace, "for grace", "/secret/")
    one, two, three = [notify.notify_sync(ada, "hello", "/accounts/?a=b") for _ in range(3)]
    for_visitors = client.post(f"/notifications/{one.id}/read/")
    assert for_visitors["Location"] == f"/accounts/login/?next=/notifications/{one.id}/read/"
    client.force_login(ada)

    def unread() -> list[Notification]:
        return list(Notification.objects.filter(is_read=False).order_by("id"))

    for path in (f"/notifications/{one.id}/read/", f"/notifications/until/{three.id}/read/"):
        assert client.get(path).status_code == 302
    assert unread() == [theirs, one, two, three]
    answer = client.post(f"/notifications/{one.id}/read/")
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/?a=b")
    assert unread() == [theirs, two, three]
    answer = client.post(f"/notifications/{two.id}/read/", {"stay": ""})
    assert (answer.status_code, answer["Location"]) == (302, "/notifications/")
    assert unread() == [theirs, three]
    late = notify.notify_sync(ada, "hello")
    client.post(f"/notifications/until/{three.id}/read/")
    assert unread() == [theirs, late]
    client.post(f"/notifications/until/{'9' * 18}/read/")
    assert unread() == [theirs]
    for id in (theirs.id, 10**18, 10**30):
        assert client.post(f"/notifications/{id}/read/").status_code == 404
    assert unread() == [theirs]


def test_bell(client: Client, ada: Any, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    """Pages and error pages show the bell to users. Visitors have no bell, and cause no query."""
    with django_assert_num_queries(0):
        for path in ("/", "/accounts/login/", "/no-such-page/"):
            assert 'id="bell"' not in client.get(path).text
    read = notify.notify_sync(ada, "read")
    notify.mark_as_read(ada.pk, id=read.id)
    notify.notify_sync(ada, "hello")
    client.force_login(ada)
    for path in ("/", "/accounts/", "/notifications/", "/no-such-page/"):
        page = client.get(path).text
        assert f'href="/notifications/" data-events="/notifications/events/?user={ada.pk}"' in page
        assert '<span id="unread"><span>1</span> ' in page
    assert client.post("/", {"text": ""}).status_code == 200
    assert client.post("/", {"text": "hello"}).status_code == 302
    assert '<span id="unread"><span>2</span> ' in client.get("/").text


async def test_bell_of_an_async_view(ada: Any, async_rf: AsyncRequestFactory) -> None:
    """The template cannot query the database; the event stream sends the number."""
    await notify.notify(ada, "hello")
    page = render(async_rf.get("/"), "base.html", {"user": ada}).content.decode()
    assert '<span id="unread" hidden><span></span> ' in page


def test_announcement(
    admin_client: Client, ada: Any, grace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "BATCH_SIZE", 2)
    get_user_model().objects.create_user("joe", is_active=False)
    path = "/admin/notifications/announcement/"
    wrong = admin_client.post(f"{path}add/", {"text": "hello", "url": "//example.com"})
    assert "is not a path on this site" in wrong.text
    assert admin_client.post(f"{path}add/", {"text": "hello", "url": "/"}).status_code == 302
    recipients = Notification.objects.filter(text="hello", url="/", is_read=False)
    names = [name for name in recipients.values_list("user__username", flat=True)]
    assert sorted(names) == ["ada", "admin", "grace"]
    announcement = Announcement.objects.get()
    assert announcement.recipients == 3
    assert admin_client.post(f"{path}{announcement.id}/change/", {"text": "x"}).status_code == 403
    assert "hello" in admin_client.get(path).text


async def test_failed_announcement(ada: Any, grace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody receives the announcement. Otherwise, a retry would send it to some users twice."""
    monkeypatch.setattr(notify, "BATCH_SIZE", 1)
    bulk_create = Notification.objects.bulk_create

    def create_once(rows: list[Notification]) -> None:
        bulk_create(rows)
        monkeypatch.setattr(Notification.objects, "bulk_create", lambda rows: 1 // 0)

    monkeypatch.setattr(Notification.objects, "bulk_create", create_once)
    with pytest.raises(ZeroDivisionError):
        await sync_to_async(notify.notify_all)("hello")
    assert not await Notification.objects.aexists()


async def test_announcement_reaches_open_pages(ada: Any, grace: Any) -> None:
    async with open_page(ada) as first, open_page(grace) as second:
        for page in (first, second):
            await page.next_event()
        await sync_to_async(notify.notify_all)("hello")
        for page in (first, second):
            assert await page.next_event() == {"unread": 1, "new": [{"text": "hello", "url": ""}]}
