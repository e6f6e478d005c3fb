"""Tests of the app `chat`: when you replace its pages, replace or delete this file."""

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core import signing
from django.db import OperationalError
from django.test import AsyncClient, Client
from django.utils import timezone
from django.utils.html import escape
from django.utils.module_loading import import_string
from pytest_django import Settings
from redis.exceptions import RedisError

from chat import consumers
from chat.consumers import ChatConsumer
from chat.models import Message, Presence, Room
from chat.names import new_guest_name

pytestmark = pytest.mark.django_db(transaction=True)


class Socket(WebsocketCommunicator):
    def __init__(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        # Not before a test runs: Django then adds its "testserver" to ALLOWED_HOSTS.
        websockets = import_string("{{ cookiecutter.project_slug }}.routing.websockets")
        super().__init__(websockets, path, [(b"host", b"testserver"), *headers])

    def receive_json_from(self, timeout: float = 10) -> Any:
        return super().receive_json_from(timeout)  # the default of one second can be too short

    async def say(self, text: str, **others: str | None) -> None:
        await self.send_json_to({"message": text, **others})

    async def said(self) -> str:
        message: dict[str, str] = await self.receive_json_from()
        return message["message"]


@asynccontextmanager
async def member(
    room: str = "lobby", query: str = "", cookie: str = "", origin: str = "http://testserver"
) -> AsyncIterator[Socket]:
    headers = [(b"origin", origin.encode()), (b"cookie", cookie.encode())]
    socket = Socket(f"/ws/chat/{room}/?{query}", headers)
    connected, _ = await socket.connect()
    assert connected
    yield socket
    await socket.disconnect()


async def test_messages_reach_all_members() -> None:
    async with member() as ada, member() as grace, member("elsewhere") as other:
        await ada.say("hello")
        received = await ada.receive_json_from()
        assert set(received) == {"id", "user", "message", "sent"}
        assert received["message"] == "hello"
        assert received["user"].startswith("Guest ")
        assert await grace.receive_json_from() == received
        assert await other.receive_nothing()


async def test_no_query_per_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members receive messages from the channel layer, without a query of their own."""

    async def fail(consumer: ChatConsumer) -> None:
        raise AssertionError("queried")

    async with member(query="presence=1") as ada:
        await ada.receive_json_from()  # after its first `catch_up`
        monkeypatch.setattr(ChatConsumer, "catch_up", fail)
        for text in ("one", "two", "two", "three"):  # including a repeated message
            await ada.say(text, key=text)
        frames = [await ada.receive_json_from() for _ in range(7)]
        assert [frame["message"] for frame in frames if "id" in frame] == ["one", "two", "three"]


async def test_missed_messages() -> None:
    async with member() as ada:
        for text in ("one", "two", "three"):
            await ada.say(text)
        first, *_ = [await ada.receive_json_from() for _ in range(3)]
        async with member(query=f"after={first['id']}") as grace:
            assert [await grace.said() for _ in range(2)] == ["two", "three"]
            await ada.say("four")
            assert await grace.said() == "four"
            assert await grace.receive_nothing()
        async with member() as newcomer:
            assert await newcomer.receive_nothing()


@pytest.mark.parametrize("after", ["x", "-1", "1" * 30, "١", "999"])
async def test_invalid_after(after: str) -> None:
    await sync_to_async(Room.store_message)("lobby", "ada", "old")
    async with member(query=f"after={after}") as grace:
        assert await grace.receive_nothing()


async def test_lost_event() -> None:
    """The next event reveals that a message is missing."""
    async with member() as ada:
        await sync_to_async(Room.store_message)("lobby", "grace", "without an event")
        await ada.say("hello")
        assert [await ada.said() for _ in range(2)] == ["without an event", "hello"]


async def test_lost_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0.01)
    async with member() as ada:
        await sync_to_async(Room.store_message)("lobby", "grace", "without an event")
        assert await ada.said() == "without an event"


async def test_heartbeat_after_a_database_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0.01)
    failed = asyncio.Event()

    async def fail(consumer: ChatConsumer) -> None:
        monkeypatch.setattr(ChatConsumer, "mark_present", mark_present)
        failed.set()
        raise OperationalError("away")

    mark_present = ChatConsumer.mark_present
    async with member(query="presence=1") as ada:
        await ada.receive_json_from()  # after its first `mark_present`
        monkeypatch.setattr(ChatConsumer, "mark_present", fail)
        await asyncio.wait_for(failed.wait(), 5)
        await sync_to_async(Room.store_message)("lobby", "grace", "without an event")
        assert await ada.said() == "without an event"
    assert "A heartbeat failed" in caplog.text


async def test_message_during_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is stored between the member's query and its first event."""
    catch_up = ChatConsumer.catch_up

    async def catch_up_and_miss_one(consumer: ChatConsumer) -> None:
        monkeypatch.setattr(ChatConsumer, "catch_up", catch_up)
        await catch_up(consumer)
        message, previous = await sync_to_async(Room.store_message)("lobby", "grace", "just now")
        event = {"type": "chat.message", "previous": previous, "message": message.as_dict()}
        await consumer.channel_layer.group_send("chat.lobby", event)

    monkeypatch.setattr(ChatConsumer, "catch_up", catch_up_and_miss_one)
    async with member() as ada:
        assert await ada.said() == "just now"


@pytest.mark.parametrize("method", ["catch_up", "chat_message"])
async def test_concurrent_heartbeat(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat catches up as well, but no message is sent twice."""
    catch_up, original = ChatConsumer.catch_up, getattr(ChatConsumer, method)

    async def with_heartbeat(consumer: ChatConsumer, *args: object) -> None:
        await asyncio.gather(catch_up(consumer), original(consumer, *args))

    monkeypatch.setattr(ChatConsumer, method, with_heartbeat)
    await sync_to_async(Room.store_message)("lobby", "grace", "old")
    async with member(query="after=0") as ada:
        for text in ("new", "newer"):
            await ada.say(text)
        assert [await ada.said() for _ in range(3)] == ["old", "new", "newer"]
        assert await ada.receive_nothing()


@pytest.fixture
def channel_layer(settings: Settings) -> InMemoryChannelLayer:
    """An in-memory channel layer for one test, whatever the value of `REDIS_URL`."""
    backend = "channels.layers.InMemoryChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    layer: InMemoryChannelLayer = get_channel_layer()
    return layer


async def test_members_leave_the_group(channel_layer: InMemoryChannelLayer) -> None:
    async with member():
        assert list(channel_layer.groups) == ["chat.lobby"]
    assert channel_layer.groups == {}


@pytest.mark.parametrize("error", [ConnectionError, RedisError, OperationalError])
async def test_channel_layer_outage(
    error: type[Exception],
    channel_layer: InMemoryChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages are stored, the sender receives them immediately, and members can leave."""

    async def fail(*args: object) -> None:
        raise error("away")

    async with member() as ada:
        monkeypatch.setattr(channel_layer, "group_send", fail)
        monkeypatch.setattr(channel_layer, "group_discard", fail)
        await ada.say("hello")
        assert await ada.said() == "hello"
    assert "The channel layer is not available: away" in caplog.text
    assert not await Presence.objects.aexists()


async def test_repeated_message() -> None:
    key = "k" * 36
    async with member() as ada:
        for _ in range(2):
            await ada.say("hello", key=key)
        frames = [await ada.receive_json_from() for _ in range(3)]
        assert [frame for frame in frames if "stored" in frame] == [{"stored": key}] * 2
        assert await ada.receive_nothing()
    async with member() as under_another_name:
        await under_another_name.say("hello", key=key)
        assert await under_another_name.receive_json_from() == {"stored": key}
    assert await Message.objects.acount() == 1


async def test_keys_are_optional() -> None:
    async with member() as ada:
        for key in (None, "", None, ""):
            await ada.say("hello", key=key)
            assert await ada.said() == "hello"


async def test_names(async_client: AsyncClient) -> None:
    page = (await async_client.get("/chat/lobby/")).content.decode()
    found = re.search(r"You are <strong>(Guest \w{8})</strong>", page)
    assert found
    guest = found[1]
    assert guest in (await async_client.get("/chat/lobby/")).content.decode()
    user = await get_user_model().objects.acreate_user("ada")
    signed_in = type(async_client)()
    await signed_in.aforce_login(user)
    for browser, name in ((async_client, guest), (signed_in, "ada")):
        for _ in range(2):
            async with member(cookie=cookies_of(browser)) as socket:
                await socket.say("hello")
                assert (await socket.receive_json_from())["user"] == name


def cookies_of(browser: AsyncClient) -> str:
    return "; ".join(f"{name}={cookie.value}" for name, cookie in browser.cookies.items())


async def test_guests_cannot_choose_their_name(async_client: AsyncClient) -> None:
    assert len({new_guest_name() for _ in range(1000)}) == 1000
    forged = signing.TimestampSigner(key="of somebody else").sign("Guest 22222222")
    for cookie in ("Guest 22222222", forged, ""):
        async with member(cookie=f'guest="{cookie}"') as socket:
            await socket.say("hello")
            assert (await socket.receive_json_from())["user"] != "Guest 22222222"


async def test_guests_have_no_session(async_client: AsyncClient) -> None:
    await async_client.get("/chat/lobby/")
    async with member(cookie=cookies_of(async_client)) as socket:
        await socket.say("hello")
        await socket.receive_json_from()
    assert not await Session.objects.aexists()


async def sign_out(browser: AsyncClient, user: Any) -> None:
    await browser.post("/accounts/logout/")


async def deactivate(browser: AsyncClient, user: Any) -> None:
    await type(user).objects.filter(pk=user.pk).aupdate(is_active=False)


async def change_password(browser: AsyncClient, user: Any) -> None:
    user.set_password("difference-engine")
    await user.asave()


async def delete(browser: AsyncClient, user: Any) -> None:
    await user.adelete()


@pytest.mark.parametrize("end", [sign_out, deactivate, change_password, delete])
async def test_end_of_a_users_session(
    end: Callable[[AsyncClient, Any], Awaitable[None]],
    async_client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next heartbeat closes the connection."""
    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0.1)
    user = await get_user_model().objects.acreate_user("ada")
    await async_client.aforce_login(user)
    async with member(cookie=cookies_of(async_client)) as ada, member() as guest:
        await ada.say("hello")
        assert await ada.said() == "hello"
        async with asyncio.timeout(5):
            seen = (await Presence.objects.aget(user="ada")).seen
            while (await Presence.objects.aget(user="ada")).seen == seen:
                pass
        await end(async_client, user)
        close = await ada.receive_output(timeout=5)
        assert (close["code"], close["reason"]) == (3000, "You are no longer signed in.")
        await ada.say("too late")
        await guest.say("still here")
        assert [await guest.said() for _ in range(2)] == ["hello", "still here"]


INVALID = 'Send JSON like {"message": "hello"}.'
TOO_LONG = "The message is longer than 2,000 characters."
BAD_FRAMES = dict.fromkeys(["hello", "null", "[]", "1", "{}", "[" * 30_000], INVALID)
BAD_MESSAGES: dict[object, str] = dict.fromkeys([1, None, "\0", "\ud800"], INVALID)
BAD_MESSAGES |= {" ": "The message is empty."}
BAD_MESSAGES |= dict.fromkeys(["x" * 2001, "x" * 50_000], TOO_LONG)
BAD_KEYS: dict[object, str] = {1: INVALID, "\0": INVALID}
BAD_KEYS |= {"k" * 37: "The key is longer than 36 characters."}
BAD_FRAMES |= {json.dumps({"message": each}): error for each, error in BAD_MESSAGES.items()}
BAD_FRAMES |= {json.dumps({"message": "a", "key": key}): error for key, error in BAD_KEYS.items()}


@pytest.mark.parametrize(("frame", "error"), BAD_FRAMES.items(), ids=range(len(BAD_FRAMES)))
async def test_rejected_frames(frame: str, error: str) -> None:
    async with member() as ada, member() as grace:
        await ada.send_to(text_data=frame)
        assert await ada.receive_json_from() == {"error": error}
        await ada.say("\N{WAVING HAND SIGN}" * 2000)
        assert len(await ada.said()) == 2000
        assert len(await grace.said()) == 2000


async def test_send_after_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers raise OSError after a disconnect. Nothing else is sent or handled."""
    sent: list[str] = []

    async def send(consumer: ChatConsumer, text: str) -> None:
        sent.append(text)
        raise ConnectionResetError

    monkeypatch.setattr(ChatConsumer, "send", send)
    async with member() as ada:
        for _ in range(2):
            await ada.send_to(text_data="no JSON")
    assert len(sent) == 1


async def test_binary_frames() -> None:
    async with member() as grace:
        async with member() as ada:
            await ada.send_to(bytes_data=b"\x00")
            assert await ada.receive_output() == {
                "type": "websocket.close",
                "code": 4003,
                "reason": "Binary frames are not supported.",
            }
        await grace.say("hello")
        assert await grace.said() == "hello"


class Clock:
    """Replaces the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(consumers, "time", clock)
    return clock


@pytest.mark.parametrize("idle_seconds", [0, 3600])
async def test_too_many_messages(idle_seconds: float, clock: Clock) -> None:
    async with member() as grace, member() as ada:
        clock.now += idle_seconds
        for number in range(40):
            await ada.say(str(number), key=str(number))
        frames = []
        while (output := await ada.receive_output(timeout=5))["type"] == "websocket.send":
            frames.append(json.loads(output["text"]))
        assert (output["code"], output["reason"]) == (4008, "Too many messages.")
        assert await ada.receive_nothing()
        stored = [frame["stored"] for frame in frames if "stored" in frame]
        assert stored == [str(number) for number in range(10)]
        error = "Too fast: send at most 5 messages per second."
        assert [frame for frame in frames if "error" in frame] == [
            {"error": error, "key": str(number), "wait": 1} for number in range(10, 31)
        ]
        assert [await grace.said() for _ in range(10)] == stored
        assert await grace.receive_nothing()


async def test_messages_per_second(clock: Clock) -> None:
    async with member() as ada:
        for count in (10, 5, 5):
            for number in range(count):
                await ada.say(str(number))
                assert await ada.said() == str(number)
            clock.now += 1
        clock.now -= 1
        await ada.say("one too many")
        assert set(await ada.receive_json_from()) == {"error", "wait"}


async def test_pings(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0.01)
    async with member() as ada:
        clock.now += 19
        assert await ada.receive_nothing()
        clock.now += 1
        assert await ada.receive_json_from() == {"ping": True}
        await ada.send_json_to({"ping": True})
        await ada.say("hello")
        while (frame := await ada.receive_json_from()) == {"ping": True}:
            pass
        assert frame["message"] == "hello"
        clock.now += 40
        output = await ada.receive_output(timeout=5)
        assert (output["type"], output["code"]) == ("websocket.close", 4408)


@pytest.mark.parametrize("room", ["", "a/b", "a.b", "x" * 51, "%20", "r%C3%A4um"])
async def test_invalid_rooms(room: str, async_client: AsyncClient) -> None:
    socket = Socket(f"/ws/chat/{room}/", [(b"origin", b"http://testserver")])
    connected, _ = await socket.connect()
    assert not connected
    if room:
        assert (await async_client.get(f"/chat/{room}/")).status_code == 404


@pytest.mark.parametrize("headers", [[], [(b"origin", b"https://evil.example")]])
async def test_other_sites(headers: list[tuple[bytes, bytes]]) -> None:
    connected, _ = await Socket("/ws/chat/lobby/", headers).connect()
    assert not connected


async def wait_for_here(socket: Socket, names: list[str]) -> None:
    """Skip frames of a heartbeat in progress, which may still contain the former names."""
    async with asyncio.timeout(5):
        while (await socket.receive_json_from(timeout=5))["here"] != names:
            pass


async def test_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0.01)
    async with member(query="presence=1") as ada:
        [name] = (await ada.receive_json_from())["here"]
        async with member() as grace:
            assert len((await ada.receive_json_from())["here"]) == 2
            assert await grace.receive_nothing()
        await wait_for_here(ada, [name])
        # A killed process does not delete its rows.
        seen = timezone.now() - consumers.PRESENCE_TIMEOUT / 2
        await Presence.objects.aupdate(seen=seen)
        zoe = {"room": "lobby", "user": "Zoe", "channel": "of another process"}
        presence = await Presence.objects.acreate(seen=timezone.now(), **zoe)
        await wait_for_here(ada, [name, "Zoe"])
        async with asyncio.timeout(5):
            while (await Presence.objects.aget(user=name)).seen == seen:
                pass
        presence.seen -= consumers.PRESENCE_TIMEOUT
        await presence.asave()
        await wait_for_here(ada, [name])
    assert not await Presence.objects.aexists()


async def test_leave_during_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be cancelled, so a heartbeat could write a row after the member has left."""
    in_progress, steps = threading.Event(), []

    def write() -> None:
        in_progress.set()
        time.sleep(0.05)
        steps.append("written")

    async def mark_present(consumer: ChatConsumer) -> None:
        await asyncio.to_thread(write)

    async def leave(consumer: ChatConsumer) -> None:
        steps.append("left")

    monkeypatch.setattr(consumers, "HEARTBEAT_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(ChatConsumer, "mark_present", mark_present)
    monkeypatch.setattr(ChatConsumer, "leave", leave)
    async with member():
        assert await asyncio.to_thread(in_progress.wait, 5)
    await asyncio.sleep(0.2)  # for a thread that is still running
    assert steps[-1] == "left"


async def test_two_tabs_have_one_name(async_client: AsyncClient) -> None:
    await async_client.get("/chat/lobby/")
    cookie = cookies_of(async_client)
    async with member(query="presence=1", cookie=cookie) as tab, member(cookie=cookie):
        [name] = (await tab.receive_json_from())["here"]
        async with member() as other:
            await other.say("hello")
            here, message = [await tab.receive_json_from() for _ in range(2)]
            assert here == {"here": sorted([name, message["user"]])}


@pytest.mark.parametrize("path", ["/", "/chat/lobby/"])
async def test_signed_in_user(path: str, async_client: AsyncClient) -> None:
    await async_client.aforce_login(await get_user_model().objects.acreate_user("ada"))
    assert ">ada</a>" in (await async_client.get(path)).content.decode()


def test_pages(client: Client) -> None:
    page = client.get("/")
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in page.text
    for number in range(60):
        Room.store_message("lobby", "ada", f"<b>{number}</b>")
    assert "/chat/lobby/" in client.get("/").text
    room = client.get("/chat/?room=Lobby!", follow=True)
    assert room.redirect_chain == [("/chat/lobby/", 302)]
    shown = re.findall(r"<p>&lt;b&gt;(\d+)&lt;/b&gt;</p>", room.text)
    assert shown == [str(number) for number in range(10, 60)]
    assert 'data-socket="/ws/chat/lobby/"' in room.text
    assert client.get(f"/chat/?room={'x' * 51}")["Location"] == f"/chat/{'x' * 50}/"
    for query in ("room=!", ""):
        page = client.get(f"/chat/?{query}", follow=True)
        assert page.redirect_chain == [("/", 302)]
        assert "The name of a room needs at least one letter (a to z) or digit." in page.text
