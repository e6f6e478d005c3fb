"""Tests of the app `game`: when you replace its pages, replace or delete this file."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client
from django.utils import timezone
from django.utils.module_loading import import_string

from game.consumers import TableConsumer
from game.models import AWAY_AFTER, Table, get_lobby
from game.rules import Game, RuleError, play

pytestmark = pytest.mark.django_db

state_consumer = import_module("{{ cookiecutter.project_slug }}.serving.state_consumer")

ADA, GRACE, ZOE = 1, 2, 3
STARTED = Game(ADA, GRACE)


def play_moves(moves: str, game: Game = STARTED) -> Game:
    for column in moves:
        player = game.red_id if game.turn == "red" else game.yellow_id
        assert player
        game = play(game, player, "drop", int(column), False)
    return game


def get_error(
    game: Game, player: int, action: object, column: object = None, opponent_away: bool = False
) -> str:
    with pytest.raises(RuleError) as error:
        play(game, player, action, column, opponent_away)
    return str(error.value)


def test_seats() -> None:
    game = Game(ADA)
    assert (game.turn, game.color_of(ADA), game.color_of(GRACE)) == ("", "red", "")
    assert get_error(game, ADA, "sit") == "You already have a seat."
    assert get_error(game, ADA, "drop", 3) == "No game is in progress."
    game = play(game, GRACE, "sit", None, False)
    assert (game, game.turn) == (STARTED, "red")
    assert get_error(game, ZOE, "sit") == "Both seats are taken."


def test_discs_fall() -> None:
    game = play_moves("3344")
    assert game.discs == {38: "red", 31: "yellow", 39: "red", 32: "yellow"}
    assert (game.turn, game.line) == ("red", [])


@pytest.mark.parametrize(
    ("moves", "line"),
    [
        ("0101010", [14, 21, 28, 35]),
        ("0011223", [35, 36, 37, 38]),
        ("01122323363", [17, 23, 29, 35]),
        ("65544343303", [17, 25, 33, 41]),
        ("0011224455663", list(range(35, 42))),
    ],
    ids=["column", "row", "rising", "falling", "seven in a row"],
)
def test_four_in_a_row(moves: str, line: list[int]) -> None:
    game = play_moves(moves)
    assert (game.line, game.result, game.winner, game.turn) == (line, "line", "red", "")
    for action in ("drop", "resign", "claim"):
        assert get_error(game, ADA, action, 3) == "No game is in progress."


def test_draw() -> None:
    game = play_moves("436014551150160155104632660465204242223333")
    assert (game.result, game.winner, game.turn, len(game.discs)) == ("draw", "", "", 42)


@pytest.mark.parametrize("column", [-1, 7, None, True, 3.0, "3", [3], 10**50])
def test_columns(column: object) -> None:
    assert get_error(STARTED, ADA, "drop", column) == "The column must be a number from 0 to 6."


def test_rejected_actions() -> None:
    assert get_error(STARTED, GRACE, "drop", 3) == "It is not your turn."
    assert get_error(play_moves("333333"), ADA, "drop", 3) == "This column is full."
    assert get_error(STARTED, ADA, "claim") == "Your opponent is still here."
    assert get_error(STARTED, ADA, "rematch") == "The game is not over."
    for action in ("drop", "resign", "claim", "rematch"):
        assert get_error(STARTED, ZOE, action, 3, True) == "Only the two players can do that."


@pytest.mark.parametrize("action", [None, "", "win", ["sit"], {}, 1])
def test_unknown_actions(action: object) -> None:
    expected = "Unknown action. Use sit, drop, resign, claim or rematch."
    assert get_error(STARTED, ADA, action) == expected


@pytest.mark.parametrize(
    ("action", "away", "result", "winner"),
    [("resign", False, "resignation", "yellow"), ("claim", True, "timeout", "red")],
)
def test_early_end(action: str, away: bool, result: str, winner: str) -> None:
    game = play(STARTED, ADA, action, None, away)
    assert (game.result, game.winner, game.turn) == (result, winner, "")


def test_rematch() -> None:
    """After both players offer a rematch, a new game begins, and the other player moves first."""
    offered = play(play_moves("0101010"), GRACE, "rematch", None, False)
    assert get_error(offered, GRACE, "rematch") == "You already offered it."
    again = play(offered, ADA, "rematch", None, False)
    assert (again, again.turn) == (Game(ADA, GRACE, first="yellow"), "yellow")
    assert play_moves("0101010", again).winner == "yellow"


class Socket(WebsocketCommunicator):
    def __init__(self, path: str, headers: dict[str, str]) -> None:
        # Not before a test runs: Django then adds its "testserver" to ALLOWED_HOSTS.
        websockets = import_string("{{ cookiecutter.project_slug }}.routing.websockets")
        headers = {"host": "testserver", "origin": "http://testserver", **headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        super().__init__(websockets, path, encoded)

    async def receive_frame(self, kind: str = "version") -> Any:
        """Return the next frame that has this field."""
        while kind not in (frame := await self.receive_json_from(timeout=10)):
            pass
        return frame

    async def act(self, version: int, action: str, column: int | None = None) -> None:
        await self.send_json_to({"action": action, "column": column, "version": version})


class Member:
    """A signed-in user, or an anonymous spectator."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.browser = AsyncClient()

    async def sign_in(self) -> "Member":
        self.user = await get_user_model().objects.acreate_user(self.name)
        await self.browser.aforce_login(self.user)
        return self

    @asynccontextmanager
    async def connect(self, path: str) -> AsyncIterator[Socket]:
        cookies = self.browser.cookies.items()
        cookie = "; ".join(f"{name}={cookie.value}" for name, cookie in cookies)
        socket = Socket(path, {"cookie": cookie})
        connected, _ = await socket.connect(timeout=10)
        assert connected
        yield socket
        await socket.disconnect()

    async def open_table(self) -> str:
        """Return the path of the table's WebSocket."""
        response = await self.browser.post("/tables/")
        assert response.status_code == 302
        return f"/ws{response['Location']}"


@pytest.fixture
async def ada(transactional_db: None) -> Member:
    return await Member("ada").sign_in()


@pytest.fixture
async def grace(transactional_db: None) -> Member:
    return await Member("grace").sign_in()


@pytest.fixture
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_consumer, "HEARTBEAT_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(state_consumer, "MAX_SILENT_HEARTBEATS", 10**6)


async def test_a_game(ada: Member, grace: Member) -> None:
    path = await ada.open_table()
    async with (
        ada.connect(path) as red,
        grace.connect(path) as yellow,
        Member().connect(path) as spectator,
    ):
        sockets = (red, yellow, spectator)
        for socket in sockets:
            state = await socket.receive_frame()
            assert (state["version"], state["red"], state["yellow"]) == (1, "ada", "")
        await yellow.act(1, "sit")
        for version, column in enumerate((0, 1, 0, 1, 0, 1, 0), start=2):
            assert [await socket.receive_frame() for socket in sockets] == [
                {
                    "version": version,
                    "red": "ada",
                    "yellow": "grace",
                    "turn": "red" if version % 2 == 0 else "yellow",
                    "discs": state["discs"],
                    "line": [],
                    "result": "",
                    "winner": "",
                    "rematch": "",
                    "away": [],
                }
            ] * 3
            await (red if version % 2 == 0 else yellow).act(version, "drop", column)
            state["discs"].append([(35 - 7 * ((version - 2) // 2)) + column, "x"])
            state["discs"][-1][1] = "red" if version % 2 == 0 else "yellow"
        for socket in sockets:
            state = await socket.receive_frame()
            assert (state["result"], state["winner"]) == ("line", "red")
        await yellow.act(9, "rematch")
        assert (await red.receive_frame())["rematch"] == "yellow"
        await red.act(10, "rematch")
        state = await red.receive_frame()
        assert (state["version"], state["turn"], state["discs"]) == (11, "yellow", [])


async def test_rejected_frames(ada: Member, grace: Member) -> None:
    """Late, repeated, out of turn or sent by a spectator: an error is sent, nothing changes."""
    path = await ada.open_table()
    async with (
        ada.connect(path) as red,
        grace.connect(path) as yellow,
        Member().connect(path) as spectator,
    ):
        await yellow.act(1, "sit")
        await red.act(1, "drop", 3)
        changed = {"error": "The table has changed. Check the board, then try again."}
        assert await red.receive_frame("error") == changed
        for _ in range(2):
            await red.act(2, "drop", 3)
        assert await red.receive_frame("error") == changed
        await red.act(3, "drop", 3)
        assert await red.receive_frame("error") == {"error": "It is not your turn."}
        await spectator.act(3, "drop", 3)
        assert await spectator.receive_frame("error") == {"error": "Sign in to play."}
    [table] = [table async for table in Table.objects.all()]
    assert (table.version, table.moves) == (3, "3")


FORMAT = 'Send JSON like {"action": "drop", "column": 3, "version": 7}.'
BAD_FRAMES = dict.fromkeys(["null", "[]", "1", '"ping"', "{}", '{"version": true}'], FORMAT)
BAD_FRAMES |= dict.fromkeys(["hello", "{", "[" * 9000], "The message is not valid JSON.")
BAD_FRAMES |= {'{"version": 1}': "Unknown action. Use sit, drop, resign, claim or rematch."}
BAD_FRAMES |= {f'"{"x" * 10_000}"': "The message is longer than 10,000 characters."}


async def test_malformed_frames(ada: Member) -> None:
    path = await ada.open_table()
    async with ada.connect(path) as red:
        for frame, error in BAD_FRAMES.items():
            await red.send_to(text_data=frame)
            assert await red.receive_frame("error") == {"error": error}
        await red.send_to(bytes_data=b"\0")
        assert set(await red.receive_frame("error")) == {"error"}
    assert await Table.objects.filter(version=1).acount() == 1


async def test_too_many_frames(ada: Member) -> None:
    async with ada.connect(await ada.open_table()) as red:
        for _ in range(150):
            await red.send_to(text_data="x")
        while (output := await red.receive_output(timeout=10))["type"] == "websocket.send":
            pass
        assert (output["code"], output["reason"]) == (4429, "Too many messages.")


async def test_lost_state(ada: Member, quick_heartbeats: None) -> None:
    async with ada.connect(await ada.open_table()) as red:
        await red.receive_frame()
        await Table.objects.aupdate(version=7)
        assert (await red.receive_frame())["version"] == 7


async def test_away(ada: Member, grace: Member, quick_heartbeats: None) -> None:
    """Replies to pings show who is present. An absent player can be timed out after a minute."""
    path = await ada.open_table()
    async with ada.connect(path) as red, grace.connect(path) as yellow:
        await yellow.act(1, "sit")
        for socket, seen in ((red, "red_seen"), (yellow, "yellow_seen")):
            before = timezone.now()
            await socket.send_json_to({"ping": True})
            async with asyncio.timeout(10):
                while not await Table.objects.filter(**{f"{seen}__gte": before}).aexists():
                    await socket.receive_frame("ping")
        await red.act(2, "claim")
        assert await red.receive_frame("error") == {"error": "Your opponent is still here."}
        await Table.objects.aupdate(yellow_seen=timezone.now() - AWAY_AFTER + timedelta(seconds=9))
        await red.act(2, "claim")
        assert await red.receive_frame("error") == {"error": "Your opponent is still here."}
        await Table.objects.aupdate(yellow_seen=timezone.now() - AWAY_AFTER)
        while (await red.receive_frame())["away"] != ["yellow"]:
            pass
        await red.act(2, "claim")
        while (state := await yellow.receive_frame())["version"] == 2:
            pass
        assert (state["result"], state["winner"]) == ("timeout", "red")


async def test_a_spectator_is_not_marked(ada: Member, grace: Member) -> None:
    path = await ada.open_table()
    await Table.objects.aupdate(red_seen=timezone.now() - AWAY_AFTER)
    for member in (grace, Member()):
        async with member.connect(path) as socket:
            await socket.send_json_to({"ping": True})
            await socket.send_json_to({"version": 0})
            await socket.receive_frame("error")  # after the other frame
    assert (await Table.objects.aget()).away == ["red"]


async def sign_out(member: Member) -> None:
    await member.browser.post("/accounts/logout/")


async def deactivate(member: Member) -> None:
    await get_user_model().objects.filter(pk=member.user.pk).aupdate(is_active=False)


async def change_password(member: Member) -> None:
    member.user.set_password("difference-engine")
    await member.user.asave()


@pytest.mark.parametrize("end", [sign_out, deactivate, change_password])
async def test_end_of_a_users_session(
    end: Callable[[Member], Awaitable[None]], ada: Member, quick_heartbeats: None
) -> None:
    path = await ada.open_table()
    async with ada.connect(path) as red, Member().connect(path) as spectator:
        for _ in range(3):
            await red.receive_frame("ping")
        await end(ada)
        while (output := await red.receive_output(timeout=10))["type"] == "websocket.send":
            pass
        assert (output["code"], output["reason"]) == (3000, "You are no longer signed in.")
        await red.act(1, "resign")
        for _ in range(3):
            await spectator.receive_frame("ping")


async def test_client_that_does_not_reply(
    ada: Member, quick_heartbeats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_consumer, "MAX_SILENT_HEARTBEATS", 2)
    path = await ada.open_table()
    async with ada.connect(path) as silent, ada.connect(path) as present:
        for _ in range(10):
            assert await present.receive_frame("ping") == {"ping": True}
            await present.send_json_to({"ping": True})
        while (output := await silent.receive_output(timeout=10))["type"] == "websocket.send":
            pass
        assert (output["code"], output["reason"]) == (4408, "No reply to pings.")


async def test_send_after_disconnect(ada: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers raise OSError after a disconnect. Nothing else is sent."""
    sent: list[str] = []

    async def send(consumer: object, text: str, *args: object, **kwargs: object) -> None:
        sent.append(text)
        raise ConnectionResetError

    path = await ada.open_table()
    monkeypatch.setattr("channels.generic.websocket.AsyncWebsocketConsumer.send", send)
    async with ada.connect(path) as red:
        for _ in range(3):
            await red.send_to(text_data="no JSON")
    assert len(sent) == 1


async def test_server_error(
    ada: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error closes the connection, so that the page reconnects."""

    async def fail(consumer: TableConsumer) -> str:
        raise OSError("away")

    monkeypatch.setattr(TableConsumer, "read_state", fail)
    async with ada.connect(await ada.open_table()) as red:
        while (output := await red.receive_output(timeout=10))["type"] == "websocket.send":
            pass
        assert output["code"] == 4500
    assert "Could not send the state of table" in caplog.text


@pytest.mark.parametrize("path", [f"tables/{uuid4()}/", "tables/x/", "tables/", "lobby"])
async def test_unknown_paths(path: str, async_client: AsyncClient) -> None:
    connected, _ = await Socket(f"/ws/{path}", {}).connect(timeout=10)
    assert not connected
    if path != "tables/":
        assert (await async_client.get(f"/{path}")).status_code == 404


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_other_sites(origin: str, ada: Member) -> None:
    for path in (await ada.open_table(), "/ws/lobby/"):
        connected, _ = await Socket(path, {"origin": origin}).connect(timeout=10)
        assert not connected


async def test_lobby(ada: Member, grace: Member) -> None:
    async with Member().connect("/ws/lobby/") as lobby:
        assert await lobby.receive_frame("tables") == {"tables": []}
        path = await ada.open_table()
        entry = {"id": path.split("/")[-2], "red": "ada", "yellow": ""}
        assert await lobby.receive_frame("tables") == {"tables": [entry]}
        async with grace.connect(path) as yellow:
            await yellow.act(1, "sit")
            playing = entry | {"yellow": "grace"}
            assert await lobby.receive_frame("tables") == {"tables": [playing]}
            await yellow.act(2, "resign")
            assert await lobby.receive_frame("tables") == {"tables": []}
        await lobby.send_json_to({"version": 1})
        expected = {"error": "This connection accepts only replies to pings."}
        assert await lobby.receive_frame("error") == expected


def test_lobby_without_absent_players(django_user_model: Any) -> None:
    ada = django_user_model.objects.create_user("ada")
    long_ago = timezone.now() - AWAY_AFTER
    Table.objects.create(red=ada, red_seen=long_ago, yellow_seen=long_ago)
    Table.objects.create(red=ada, red_seen=long_ago)
    here = Table.objects.create(red=ada, yellow_seen=long_ago)
    assert len(get_lobby()) == 2
    assert get_lobby()[0]["id"] == str(here.pk)


def test_pages(client: Client, django_user_model: Any) -> None:
    answer = client.post("/tables/")
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/?next=/")
    assert "You have to sign in first." in client.get("/").text
    ada = django_user_model.objects.create_user("ada")
    client.force_login(ada)
    assert client.get("/tables/").status_code == 405
    table = client.post("/tables/")["Location"]
    assert ">ada</a>" in client.get("/").text
    assert f'href="{table}"' in client.get("/").text
    page = client.get(table).text
    assert f'data-socket="/ws{table}" data-player="ada"' in page
    assert f'value="http://testserver{table}"' in page
    assert "Sign in to play" not in page
    page = Client().get(table).text
    assert f'href="/accounts/login/?next={table}">Sign in to play</a>' in page


def test_forms_of_other_sites(django_user_model: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(django_user_model.objects.create_user("ada"))
    assert client.post("/tables/").status_code == 403
    assert not Table.objects.exists()


async def test_states_contain_no_user_ids(ada: Member) -> None:
    table = await Table.objects.acreate(red=ada.user)
    state = json.loads(await sync_to_async(table.as_json)())
    assert not {"red_id", "yellow_id"} & set(state)
