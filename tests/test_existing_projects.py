"""The core in projects that the template did not make: written to them, compared with Django's own handler, taken out."""

import asyncio
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
        project = Project(path, {}, python, {"DJANGO_SUPERUSER_PASSWORD": "analytical-engine"}, "/admin/login/")
        project.manage("migrate")
        project.manage("createsuperuser", "--no-input", "--username", "ada", "--email", "ada@example.com")
        return project

    return start


POSTGRESQL = "django.db.backends.postgresql"


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
    ("django_version", "server"),
    [
        ("5.2", "uvicorn"),
        ("6.1", "daphne"),
        *also_in_test_all(("5.2", "daphne"), ("6.0", "uvicorn"), ("6.0", "daphne"), ("6.1", "uvicorn")),
    ],
)
def test_startproject(django_version: str, server: str, start_project: Callable[..., Project]) -> None:
    """On SQLite, where each thread has a connection: sign-in, many clients, a stop, and Django's handler again."""
    project = start_project(django_version)
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
        assert max(answer["threads"] for answer in answers) == THREADS
        running.stop()
        assert "Traceback" not in running.output

    shutil.rmtree(project.path / "mysite" / "serving")
    edit(project.path / "mysite" / "asgi.py", new, old)
    assert read_files(project.path / "mysite") == before
    with serve(project, server) as (running, client):
        assert "asgi-" not in client.get("/sync/").json()["thread"]


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("django_version", "server"), [("5.2", "uvicorn"), *also_in_test_all(("6.1", "daphne"))])
def test_connections_to_postgresql(
    django_version: str,
    server: str,
    start_project: Callable[..., Project],
    postgresql: str,
    connections: Callable[[], int],
) -> None:
    project = start_project(django_version, postgresql)
    add_core(project)
    with serve(project, server) as (running, client):
        assert sign_in(client).is_redirect
        assert len(asyncio.run(ask_many(running.url, clients=48, requests=5))) == 240
        assert 1 <= connections() <= THREADS, "they are kept, and bounded"
        running.stop()
        assert connections() == 0
