"""The core in projects that the template did not make: written to them, compared with Django's own handler, taken out."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.template import (
    ROOT,
    THREADS,
    Project,
    Server,
    also_in_test_all,
    edit,
    free_port,
    make_existing_project_environment,
)

COMMANDS = {
    "uvicorn": "uvicorn mysite.asgi:application --port {port} --no-access-log",
    "daphne": "daphne --port {port} mysite.asgi:application",
}
# What a user of startproject might have: a query in a sync view and in an async one, and where it ran.
PROBE = """
import threading
import time

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse


def where() -> dict[str, object]:
    names = [thread.name for thread in threading.enumerate()]
    count = sum(name.startswith("asgi-") for name in names)
    return {"users": User.objects.count(), "thread": threading.current_thread().name, "threads": count}


def sync_view(request):
    time.sleep(0.01)
    return JsonResponse(where())


async def async_view(request):
    return JsonResponse(await sync_to_async(where)())


class SyncOnlyMiddleware:
    sync_capable, async_capable = True, False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)
"""
URLS = """
from . import probe
urlpatterns += [path("sync/", probe.sync_view), path("async/", probe.async_view)]
"""


def cookiecutter(folder: Path, *answers: str, options: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """The command of docs/existing-projects.md in this folder: its exit status, and the lines that a person sees."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", *options, str(ROOT), "--directory", "core", *answers]
    result = subprocess.run(
        command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    return result.returncode, [line.strip() for line in result.stdout.strip().splitlines()]


def add_core(project: Project) -> tuple[str, str]:
    """Do what a user does: run the command, then change the line that it prints. Returns the old line and the new."""
    status, lines = cookiecutter(project.path, f"package={project.slug}")
    assert status == 0, lines
    old, new = [line for line in lines if line.startswith("from ")]
    edit(project.path / project.slug / "asgi.py", old, new)
    return old, new


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.fixture
def start_project(tmp_path: Path, environments: Callable[[str], Path]) -> Callable[[str, str], Project]:
    """`start_project(django_version, database_url)`: what startproject makes, with the probe's views and an admin."""

    def start(django_version: str, database_url: str = "") -> Project:
        # Django 6.0 has an end soon: the template has none of its own for it.
        own = django_version in ("5.2", "6.1")
        python = environments(django_version) if own else make_existing_project_environment(django_version)
        path = tmp_path / "mysite"
        path.mkdir()
        subprocess.run([python, "-m", "django", "startproject", "mysite", path], check=True)
        (path / "mysite" / "probe.py").write_text(PROBE)
        append(path / "mysite" / "urls.py", URLS)
        if database_url:
            url = urlsplit(database_url)
            database = {"NAME": url.path[1:], "USER": url.username, "HOST": parse_qs(url.query)["host"][0]}
            append(path / "mysite" / "settings.py", f"DATABASES['default'] = {database | {'ENGINE': POSTGRESQL}}\n")
        append(path / "mysite" / "settings.py", f"ASGI_THREADS = {THREADS}\n")
        return Project(path, {}, python, ready_path="/admin/login/")

    return start


POSTGRESQL = "django.db.backends.postgresql"


def create_database(project: Project) -> None:
    project.manage("migrate")
    user = "get_user_model().objects.create_superuser('ada', 'ada@example.com', 'analytical-engine')"
    project.manage("shell", "--command", f"from django.contrib.auth import get_user_model; {user}")


@contextmanager
def serve(project: Project, server: str = "uvicorn") -> Iterator[tuple[Server, httpx.Client]]:
    port = free_port()
    with (
        project.run_process(COMMANDS[server].format(port=port).split(), port) as running,
        httpx.Client(base_url=running.url, timeout=20) as client,
    ):
        yield running, client


def sign_in(client: httpx.Client, path: str = "/admin/login/") -> httpx.Response:
    form = {"username": "ada", "password": "analytical-engine"}
    return post_form(client, path, form)


def post_form(client: httpx.Client, path: str, form: dict[str, str], **options: object) -> httpx.Response:
    """Fill in the page's form and send it, with the token that the page has."""
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)
    assert token, f"{path} has no form"
    return client.post(path, data=form | {"csrfmiddlewaretoken": token[1]}, **options)


async def ask_many(url: str, clients: int, requests: int) -> list[dict[str, object]]:
    answers = []
    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=clients), timeout=60) as client:

        async def ask(path: str) -> None:
            for _ in range(requests):
                answers.append((await client.get(path)).raise_for_status().json())

        await asyncio.gather(*[ask(["/sync/", "/async/"][number % 2]) for number in range(clients)])
    return answers


@pytest.mark.parametrize(
    ("django_version", "server", "database"),
    [
        ("5.2", "uvicorn", "postgresql"),
        ("6.1", "daphne", "sqlite"),
        *also_in_test_all(
            ("5.2", "daphne", "sqlite"),
            ("6.0", "uvicorn", "postgresql"),
            ("6.0", "daphne", "sqlite"),
            ("6.1", "uvicorn", "postgresql"),
        ),
    ],
)
def test_startproject(
    django_version: str,
    server: str,
    database: str,
    start_project: Callable[..., Project],
    request: pytest.FixtureRequest,
) -> None:
    """Sign-in, many clients, few threads and connections, a stop; and Django's own handler again."""
    url = request.getfixturevalue("postgresql") if database == "postgresql" else ""
    project = start_project(django_version, url)
    create_database(project)
    before = read_files(project.path / "mysite")
    old, new = add_core(project)
    with serve(project, server) as (running, client):
        assert sign_in(client).is_redirect
        assert "Site administration" in client.get("/admin/").text
        assert "Select user to change" in client.get("/admin/auth/user/").text
        answers = asyncio.run(ask_many(running.url, clients=48, requests=5))
        assert len(answers) == 240
        assert {answer["users"] for answer in answers} == {1}
        assert {answer["thread"] for answer in answers} <= {f"asgi-{number + 1}" for number in range(THREADS)}
        # On SQLite each of them has one connection.
        assert max(answer["threads"] for answer in answers) == THREADS
        if url:
            connections = request.getfixturevalue("connections")
            assert 1 <= connections() <= THREADS, "they are kept, and bounded"
        running.stop()
        assert "Traceback" not in running.output
        if url:
            assert connections() == 0

    shutil.rmtree(project.path / "mysite" / "serving")
    edit(project.path / "mysite" / "asgi.py", new, old)
    assert read_files(project.path / "mysite") == before
    with serve(project, server) as (running, client):
        assert "asgi-" not in client.get("/sync/").json()["thread"]


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_system_checks(start_project: Callable[..., Project]) -> None:
    """They name what docs/existing-projects.md tells people to look for, once the app is installed."""
    project = start_project("5.2")
    add_core(project)
    settings = project.path / "mysite" / "settings.py"
    append(settings, "DATABASES['default'] |= {'CONN_MAX_AGE': 60, 'ATOMIC_REQUESTS': True}\n")
    append(settings, "MIDDLEWARE += ['mysite.probe.SyncOnlyMiddleware']\n")
    assert "no issues" in project.manage("check").stdout
    append(settings, "INSTALLED_APPS += ['mysite.serving']\n")
    said = project.manage("check", check=False).stderr
    assert "identified 3 issues" in said
    assert "ATOMIC_REQUESTS of database 'default'" in said
    assert "CONN_MAX_AGE of database 'default'" in said
    assert "mysite.probe.SyncOnlyMiddleware costs every request to an async view a thread" in said
    edit(settings, "{'CONN_MAX_AGE': 60, 'ATOMIC_REQUESTS': True}", "{}")
    edit(settings, "['mysite.probe.SyncOnlyMiddleware']", "[]")
    assert "no issues" in project.manage("check").stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder in which `mysite` is a package with asgi.py, as far as the hooks can see."""
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "asgi.py").touch()
    return tmp_path


def refused(folder: Path, *answers: str, options: tuple[str, ...] = ()) -> str:
    """The sentence that the command ends with. It has changed nothing in the folder."""
    before = sorted(folder.rglob("*"))
    files = read_files(folder)
    status, lines = cookiecutter(folder, *answers, options=options)
    assert status != 0
    assert sorted(folder.rglob("*")) == before
    assert read_files(folder) == files
    return lines[0]


@pytest.mark.parametrize("name", ["serving/views.py", "serving.py", "serving.new"])
@pytest.mark.parametrize("options", [("--overwrite-if-exists",), pytest.param((), marks=pytest.mark.exhaustive)])
def test_nothing_is_overwritten(name: str, options: tuple[str, ...], package: Path) -> None:
    file = package / ("serving.new/notes.txt" if name == "serving.new" else f"mysite/{name}")
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    sentence = refused(package, options=options)
    assert name.split("/")[0] in sentence
    assert re.search("already exists|is not overwritten", sentence), sentence


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "there is no nothing in "),
        ("empty", "there is no empty/asgi.py."),
        ("", "that is not the name of a package."),
        ("{folder}/mysite", "that is not the name of a package."),
        ("../{name}/mysite", "that is not the name of a package."),
        ('"""\nimport os\nos.mkdir("hacked")\n"""', "that is not the name of a package."),
        ("my\\site", "that is not the name of a package."),
    ],
)
def test_refused_packages(name: str, reason: str, package: Path) -> None:
    (package / "empty").mkdir()
    name = name.format(folder=package, name=package.name)
    sentence = refused(package, f"package={name}")
    assert sentence.startswith(f"package {name[:80]!r} cannot be used: {reason}"), sentence


def test_relative_paths(package: Path) -> None:
    """That of the template starts at the folder in which cookiecutter runs, whatever the output folder is."""
    template = os.path.relpath(ROOT, package)
    command = [sys.executable, "-m", "cookiecutter", "--no-input", template, "--directory", "core"]
    subprocess.run(command, cwd=package, check=True, capture_output=True)
    assert (package / "mysite" / "serving" / "handler.py").exists()
    shutil.rmtree(package / "mysite" / "serving")
    (package / "elsewhere").mkdir()
    command += ["--output-dir", str(package)]
    result = subprocess.run(command, cwd=package / "elsewhere", check=False, capture_output=True, text=True)
    assert result.returncode != 0
    assert "Give the whole path of the template" in result.stderr
    command[command.index(template)] = str(ROOT)
    subprocess.run(command, cwd=package / "elsewhere", check=True, capture_output=True)
    assert (package / "mysite" / "serving" / "handler.py").exists()
