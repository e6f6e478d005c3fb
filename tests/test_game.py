"""The starter `game`: on each server, a thousand games against a model of the rules, and a hundred on two processes."""

import asyncio
import importlib.util
import itertools
import json
import random
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.template import Answers, MakeProject, Project, Server, connect, first_match, on_each_server
from tests.test_starters import kill_web_process

COLUMNS, ROWS = 7, 6
TABLES_AT_ONCE = 100
GAMES, STORED_GAMES = 1000, 100
Step = tuple[str, dict[str, Any] | None]  # a player and its action, or a color whose player goes away
# Takes the steps of a game; returns the reason for which each action was refused, or "", and the state at the end.
Play = Callable[[list[Step]], tuple[list[str], dict[str, Any]]]
PLAYERS = ("ada", "grace", "zoe", "mallory")

# Creates users who are signed in; prints the keys of their sessions.
CREATE_PLAYERS = """
import json
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore

def create(name):
    user, _ = get_user_model().objects.get_or_create(username=name)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "accounts.backends.LimitedModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return session.session_key

print(json.dumps([create(name) for name in {names}]))
"""


def create_players(project: Project, *names: str) -> list[str]:
    """Create users; return a cookie for each, with which it is signed in."""
    output = project.manage("shell", "--no-imports", "--command", CREATE_PLAYERS.format(names=list(names))).stdout
    return [f"sessionid={key}" for key in json.loads(output)]


def rows_columns_and_diagonals() -> list[list[int]]:
    groups = defaultdict(list)
    for cell in range(ROWS * COLUMNS):
        row, column = divmod(cell, COLUMNS)
        for group in (("-", row), ("|", column), ("/", row + column), ("\\", row - column)):
            groups[group].append(cell)
    return [cells for cells in groups.values() if len(cells) >= 4]


ROWS_COLUMNS_AND_DIAGONALS = rows_columns_and_diagonals()


class Model:
    """What the rules should do: simple, and written without a look at them."""

    def __init__(self) -> None:
        self.version = 1
        self.seats = {"ada": "red"}
        self.first = "red"
        self.columns: list[list[str]] = [[] for _ in range(COLUMNS)]
        self.discs: list[list[Any]] = []
        self.result = self.winner = self.rematch = ""
        self.away: set[str] = set()

    @property
    def turn(self) -> str:
        if len(self.seats) < 2 or self.result:
            return ""
        return self.first if len(self.discs) % 2 == 0 else self.other(self.first)

    @staticmethod
    def other(color: str) -> str:
        return "yellow" if color == "red" else "red"

    @property
    def line(self) -> list[int]:
        """All cells of rows, columns and diagonals that are among four equal neighbors."""
        letters = {cell: color[0] for cell, color in self.discs}
        found = set()
        for cells in ROWS_COLUMNS_AND_DIAGONALS:
            text = "".join(letters.get(cell, ".") for cell in cells)
            for match in re.finditer("rrrr+|yyyy+", text):
                found |= set(cells[match.start() : match.end()])
        return sorted(found)

    def act(self, player: str, action: dict[str, Any]) -> bool:
        """Return whether the action is accepted."""
        accepted = action["version"] == self.version and self.apply(player, action["action"], action["column"])
        if accepted:
            self.version += 1
            self.away.discard(self.seats[player])
        return accepted

    def apply(self, player: str, action: object, column: object) -> bool:
        color = self.seats.get(player)
        if action == "sit" and not color and len(self.seats) == 1:
            self.seats[player] = "yellow"
        elif action == "drop" and color and color == self.turn and self.is_free(column):
            assert isinstance(column, int)
            self.columns[column].append(color)
            self.discs.append([(ROWS - len(self.columns[column])) * COLUMNS + column, color])
            if self.line:
                self.result, self.winner = "line", color
            elif len(self.discs) == COLUMNS * ROWS:
                self.result = "draw"
        elif action == "resign" and color and self.turn:
            self.result, self.winner = "resignation", self.other(color)
        elif action == "claim" and color and self.turn and self.other(color) in self.away:
            self.result, self.winner = "timeout", color
        elif action == "rematch" and color and self.result and not self.rematch:
            self.rematch = color
        elif action == "rematch" and color and self.result and self.rematch != color:
            self.first = self.other(self.first)
            self.columns, self.discs = [[] for _ in range(COLUMNS)], []
            self.result = self.winner = self.rematch = ""
        else:
            return False
        return True

    def is_free(self, column: object) -> bool:
        return type(column) is int and 0 <= column < COLUMNS and len(self.columns[column]) < ROWS

    def as_state(self) -> dict[str, Any]:
        names = {color: name for name, color in self.seats.items()}
        return {
            "version": self.version,
            "red": names["red"],
            "yellow": names.get("yellow", ""),
            "turn": self.turn,
            "discs": self.discs,
            "line": self.line,
            "result": self.result,
            "winner": self.winner,
            "rematch": self.rematch,
            "away": [color for color in ("red", "yellow") if color in self.away],
        }


# Plays the games that come in, one a line: with the ORM, and without a socket. Prints what each step has led to.
PLAY_GAMES = """
import json, sys
from datetime import timedelta
from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone
from game.models import Table
from game.rules import RuleError

players = {name: get_user_model().objects.create(username=name).pk for name in %r}
tables = Table.objects.select_related("red", "yellow")

@transaction.atomic  # commits would take most of the time
def play_game(steps):
    table = Table.objects.create(red_id=players["ada"])
    reasons = []
    for player, action in steps:
        if action is None:
            tables.filter(pk=table.pk).update(**{f"{player}_seen": timezone.now() - timedelta(seconds=60)})
            continue
        try:
            Table.act(table.pk, players[player], action)
            reasons.append("")
        except RuleError as error:
            reasons.append(str(error))
    return reasons, json.loads(tables.get(pk=table.pk).as_json())

for line in sys.stdin:
    print(json.dumps(play_game(json.loads(line))), flush=True)
"""
ACTIONS: list[object] = ["sit", "drop", "resign", "claim", "rematch", "win", "", None, ["sit"], {}, 1, True]
BAD_COLUMNS: list[object] = [-1, 7, 42, 10**30, None, True, False, 3.0, "3", [3], {}]


def next_step(model: Model, number: int) -> Step:
    """Return a color whose player goes away, or a player and its action: most are good, as games would never end."""
    number, kind = divmod(number, 32)
    number, column = divmod(number, COLUMNS)
    version = model.version
    if kind < 20 and not model.turn:
        action = "rematch" if model.result else "sit"
        return PLAYERS[number % 2], {"action": action, "column": None, "version": version}
    if kind < 20:
        [player] = [name for name, color in model.seats.items() if color == model.turn]
        return player, {"action": "drop", "column": column, "version": version}
    number, player_index = divmod(number, len(PLAYERS))
    number, color_index = divmod(number, 2)
    if kind < 22 and model.away and model.turn:
        claiming = [name for name, color in model.seats.items() if model.other(color) in model.away]
        return claiming[0], {"action": "claim", "column": None, "version": version}
    if kind < 22:
        return ("red", "yellow")[color_index], None
    number, action_index = divmod(number, len(ACTIONS))
    if kind < 25:
        version += [-1, 1, -2, 10**9][color_index + 2 * (kind == 24)]
    elif kind < 27:
        bad = BAD_COLUMNS[(number + action_index) % len(BAD_COLUMNS)]
        return PLAYERS[player_index], {"action": "drop", "column": bad, "version": version}
    return PLAYERS[player_index], {"action": ACTIONS[action_index], "column": column, "version": version}


def test_a_thousand_games(make_project: MakeProject) -> None:
    """Random and hostile players against a model: each action is accepted by the model and the rules, or by neither.

    A hundred of the games are played at a table in the database, which takes most of the time.
    """
    project = make_project(starter="game").in_production()  # debug mode would record each query
    project.manage("migrate")
    with play_games(project) as play_at_table:
        results = check_games(GAMES - STORED_GAMES, play_by_rules(project))
        assert set(results) >= {"", "line", "resignation", "timeout"}
        check_games(STORED_GAMES, play_at_table)


def check_games(count: int, play: Play) -> dict[str, int]:
    """Play so many games; return the number of accepted actions by the result of the game after them."""
    results: dict[str, int] = defaultdict(int)

    @settings(max_examples=count, deadline=None, database=None)
    @given(st.lists(st.integers(0, 2**22 - 1), min_size=8, max_size=50))
    def play_a_game(numbers: list[int]) -> None:
        model, steps, accepted = Model(), [], []
        for number in numbers:
            player, action = next_step(model, number)
            steps.append((player, action))
            if action is None:
                model.away.add(player)
            else:
                accepted.append(model.act(player, action))
                results[model.result] += accepted[-1]
        reasons, state = play(steps)
        assert [not reason for reason in reasons] == accepted, list(zip(steps, reasons, strict=False))
        assert state.items() <= model.as_state().items()

    play_a_game()
    return results


def play_by_rules(project: Project) -> Play:
    """Return a function that plays the steps of a game by the project's rules alone."""
    spec = importlib.util.spec_from_file_location("rules", project.path / "game" / "rules.py")
    assert spec and spec.loader
    rules = importlib.util.module_from_spec(spec)
    sys.modules["rules"] = rules  # for its dataclass
    spec.loader.exec_module(rules)

    def play(steps: list[Step]) -> tuple[list[str], dict[str, Any]]:
        game, version, away, reasons = rules.Game(PLAYERS.index("ada")), 1, set(), []
        for player, action in steps:
            if action is None:
                away.add(player)
                continue
            number, opponent = PLAYERS.index(player), {"red": "yellow", "yellow": "red"}
            try:
                if action["version"] != version:
                    raise rules.RuleError("another version")
                opponent_away = opponent.get(game.color_of(number)) in away
                game = rules.play(game, number, action["action"], action["column"], opponent_away)
            except rules.RuleError as error:
                reasons.append(str(error))
            else:
                reasons.append("")
                version += 1
                away.discard(game.color_of(number))
        names = ("turn", "line", "result", "winner", "rematch")
        state = {name: getattr(game, name) for name in names}
        return reasons, state | {"discs": [list(disc) for disc in game.discs.items()], "version": version}

    return play


@contextmanager
def play_games(project: Project) -> Iterator[Play]:
    """Yield a function that plays the steps of a game at a table of the project."""
    command = [str(project.python), "manage.py", "shell", "--no-imports", "--command", PLAY_GAMES % (PLAYERS,)]
    process = subprocess.Popen(
        command, cwd=project.path, env=project.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout

    def play(steps: list[Step]) -> Any:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(steps) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:
        yield play
        process.stdin.close()


@on_each_server("game")
def test_game(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    ada, grace = create_players(project, "ada", "grace")
    with project.run_server() as running:
        with running.client(headers={"Cookie": ada}) as client:
            token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)
            headers = {"Cookie": f"{ada}; csrftoken={client.cookies['csrftoken']}", "Origin": "https://example.com"}
            response = client.post("/tables/", data={"csrfmiddlewaretoken": token}, headers=headers)
            path = response.headers["location"]
        asyncio.run(play_and_watch(running, path, ada, grace))
        assert "Traceback" not in running.output


async def play_and_watch(running: Server, path: str, ada: str, grace: str) -> None:
    """Play a game among hostile frames, which change nothing, with the lobby and a spectator beside it."""
    url = f"ws://127.0.0.1:{running.port}/ws"
    for refused, origin in (("/tables/1/", None), (path, "https://evil.example"), ("/lobby/", "https://evil.example")):
        with pytest.raises(InvalidStatus):
            await connect(f"{url}{refused}", origin=origin)
    async with (
        asyncio.timeout(60),
        connect(f"{url}/lobby/") as lobby,
        connect(f"{url}{path}", headers={"Cookie": ada}) as red,
        connect(f"{url}{path}", headers={"Cookie": grace}) as yellow,
        connect(f"{url}{path}") as spectator,
    ):
        everybody = (red, yellow, spectator)
        assert [table["red"] for table in (await receive(lobby, "tables"))["tables"]] == ["ada"]
        model = Model()
        for socket in everybody:
            assert await receive(socket, "version") == model.as_state()
        moves: list[tuple[ClientConnection, str, str, int | None]] = [(yellow, "grace", "sit", None)]
        moves += [[(red, "ada", "drop", 0), (yellow, "grace", "drop", 1)][number % 2] for number in range(7)]
        for (socket, player, action, column), hostile in zip(moves, itertools.cycle(HOSTILE_FRAMES)):
            await spectator.send(json.dumps({"action": action, "column": column, "version": model.version}))
            assert (await receive(spectator, "error"))["error"] == "Sign in to play."
            await socket.send(hostile)
            assert await receive(socket, "error")
            frame = {"action": action, "column": column, "version": model.version}
            for _ in range(2):
                await socket.send(json.dumps(frame))
            assert model.act(player, frame)
            for each in everybody:
                while (state := await receive(each, "version"))["version"] < model.version:
                    pass
                assert state == model.as_state()
        assert model.result == "line"
        while (await receive(lobby, "tables"))["tables"]:
            pass
        async with connect(f"{url}{path}") as latecomer:
            assert await receive(latecomer, "version") == model.as_state()
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(500):
                await spectator.send("x")
                await spectator.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 4429
        assert await asyncio.to_thread(running.stop, 15) in (0, -15), running.output


HOSTILE_FRAMES: list[str | bytes] = ["", "null", "[]", "{}", "x" * 20_000, b"\0\xff", '{"version": "1"}', "[" * 5000]
HOSTILE_FRAMES += ['{"version": NaN}', '{"version": 1e400, "action": "sit"}', '{"version": true}', '"\\ud800"']


async def receive(socket: ClientConnection, kind: str) -> Any:
    """Return the next frame that has this field; reply to pings."""
    while True:
        text = await socket.recv()
        frame = json.loads(text)
        if "ping" in frame:
            await socket.send(text)
        elif kind in frame:
            return frame


class Client:
    """A client of a table that connects again, as the page does. It fails if a version has two states."""

    def __init__(self, urls: list[str], cookie: str = "", color: str = "") -> None:
        self.urls = itertools.cycle(urls)
        self.cookie = cookie
        self.color = color
        self.socket: ClientConnection | None = None
        self.states: dict[int, dict[str, Any]] = {}
        self.drops: dict[int, int] = {}  # the column, by the version that it was sent for
        self.errors: list[str] = []
        self.is_over = asyncio.Event()

    async def play(self) -> None:
        for url in self.urls:
            with suppress(OSError, WebSocketException):
                async with connect(url, headers={"Cookie": self.cookie}) as self.socket:
                    async for text in self.socket:
                        await self.take(json.loads(text))
            await asyncio.sleep(0.3)

    async def take(self, frame: dict[str, Any]) -> None:
        if "ping" in frame:
            await self.send(**frame)
        elif "error" in frame:
            self.errors.append(frame["error"])
        else:
            del frame["away"]
            assert self.states.setdefault(frame["version"], frame) == frame
            if frame["result"]:
                self.is_over.set()
            elif frame["version"] == max(self.states):
                await self.act(frame)

    async def act(self, state: dict[str, Any]) -> None:
        version = state["version"]
        if not self.color:  # not a player of this table
            await self.send(action="drop", column=3, version=version)
        elif not state["yellow"] and self.color == "yellow":
            await self.send(action="sit", version=version)
        elif state["turn"] == self.color:
            full = {cell for cell, _ in state["discs"] if cell < COLUMNS}
            # Few columns, so that games end soon.
            column = random.choice([column for column in range(COLUMNS) if column not in full][:4])
            # After a lost connection the same again: whether it came, only the state tells.
            column = self.drops.setdefault(version, column)
            for _ in range(2 if version % 3 == 0 else 1):
                await self.send(action="drop", column=column, version=version)
        elif state["turn"] and version % 5 == 0:
            await self.send(action="drop", column=3, version=version)

    async def send(self, **frame: Any) -> None:
        if self.socket:
            with suppress(ConnectionClosed):
                await self.socket.send(json.dumps(frame))


OPEN_TABLES = """
import json
from django.contrib.auth import get_user_model
from game.models import Table
ada = get_user_model().objects.get(username="ada")
print(json.dumps([str(Table.objects.create(red=ada).pk) for _ in range({count})]))
"""
LIST_TABLES = """
import json
from game.models import Table
tables = Table.objects.values_list("pk", "version", "moves", "result", "winner")
print(json.dumps([[str(pk), *others] for pk, *others in tables]))
"""


def test_tables_on_two_processes(make_production_project: MakeProject) -> None:
    """A hundred games at once, with many actions sent twice; one process is killed, and every game ends as it should."""
    project = make_production_project(starter="game", database="postgresql")
    cookies = create_players(project, "ada", "grace", "zoe")
    ids = json.loads(
        project.manage("shell", "--no-imports", "--command", OPEN_TABLES.format(count=TABLES_AT_ONCE)).stdout
    )
    with project.run_server() as first, project.run_server() as second:
        clients = asyncio.run(play_tables([first, second], ids, cookies))
    stored = json.loads(project.manage("shell", "--no-imports", "--command", LIST_TABLES).stdout)
    assert len(stored) == TABLES_AT_ONCE
    for id, version, moves, result, winner in stored:
        model = Model()
        assert model.act("grace", {"action": "sit", "column": None, "version": 1})
        for number, move in enumerate(moves, start=2):
            player, color = ("ada", "red") if number % 2 == 0 else ("grace", "yellow")
            assert int(move) in [client.drops.get(number) for client in clients[id] if client.color == color]
            assert model.act(player, {"action": "drop", "column": int(move), "version": number})
            for client in clients[id]:
                seen = client.states.get(model.version, model.as_state())
                assert seen.items() <= model.as_state().items()
        assert (version, result, winner) == (model.version, model.result, model.winner)
        assert all(client.states[version]["result"] == result for client in clients[id])


async def play_tables(servers: list[Server], ids: list[str], cookies: list[str]) -> dict[str, list[Client]]:
    """Play a game at each table, its players on different processes; kill one process in the middle."""
    clients = {}
    for number, id in enumerate(ids):
        urls = [f"ws://127.0.0.1:{server.port}/ws/tables/{id}/" for server in servers]
        here, there = (urls, urls[::-1]) if number % 2 else (urls[::-1], urls)
        clients[id] = [Client(here, cookies[0], "red"), Client(there, cookies[1], "yellow")]
        # Ada has a second tab, where she makes other moves; Zoe has no seat, and the last one is not signed in.
        clients[id] += [Client(there, cookies[0], "red")] * (number % 4 == 0)
        clients[id] += [Client(here, cookie) for cookie in [cookies[2], ""] if number % 10 == 0]
    everybody = list(itertools.chain(*clients.values()))
    async with asyncio.TaskGroup() as group, asyncio.timeout(120):
        tasks = [group.create_task(client.play()) for client in everybody]
        while sum(len(table[0].states) for table in clients.values()) < 6 * len(ids):
            assert not any(task.done() for task in tasks)
            await asyncio.sleep(0.05)
        assert sum(client.is_over.is_set() for client in everybody) < len(everybody) / 2
        kill_web_process(servers[0])
        await asyncio.gather(*[client.is_over.wait() for client in everybody])
        for task in tasks:
            task.cancel()
    errors = set(itertools.chain(*[client.errors for client in everybody]))
    reasons = {"Sign in to play.", "Only the two players can do that.", "It is not your turn."}
    assert (
        reasons
        <= errors
        <= reasons | {"The table has changed. Check the board, then try again.", "No game is in progress."}
    )
    return clients
