"""The core in projects that the template did not make: written to them, compared with Django's own handler, taken out."""

import asyncio
import html
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.template import (
    CHOICES,
    ROOT,
    MakeEnvironment,
    Project,
    Server,
    also_in_test_all,
    code_blocks,
    edit,
    free_port,
)

THREADS = 3
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
    """The command of docs/how-to/existing-projects.md in this folder: its exit status, and the lines that a person sees."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", *options, str(ROOT), "--directory", "core", *answers]
    result = subprocess.run(
        command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    return result.returncode, [line.strip() for line in result.stdout.strip().splitlines()]


def add_core(project: Project, package: str = "mysite") -> tuple[str, str]:
    """Do what a user does: run the command, then change the line that it prints. Returns the old line and the new."""
    status, lines = cookiecutter(project.path, f"package={package}")
    assert status == 0, lines
    old, new = [line for line in lines if line.startswith("from ")]
    edit(project.path / package / "asgi.py", old, new)
    return old, new


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.fixture
def start_project(
    tmp_path: Path, environments: MakeEnvironment, existing_project_environments: Callable[[str], Path]
) -> Callable[..., Project]:
    """`start_project(django_version, database_url)`: what startproject makes, with the views of PROBE."""

    def start(django_version: str, database_url: str = "") -> Project:
        generated = django_version in CHOICES["django_version"]
        python = environments(django_version) if generated else existing_project_environments(django_version)
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
        httpx.Client(base_url=running.url, timeout=20, headers={"Host": "localhost"}) as client,  # on any port
    ):
        yield running, client


def sign_in(client: httpx.Client, path: str = "/admin/login/") -> httpx.Response:
    form = {"username": "ada", "password": "analytical-engine"}
    return post_form(client, path, form)


def post_form(client: httpx.Client, path: str, form: dict[str, str], **options: Any) -> httpx.Response:
    """Fill in the page's form and send it, with the token that the page has."""
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)
    assert token, f"{path} has no form"
    return client.post(path, data=form | {"csrfmiddlewaretoken": token[1]}, **options)


async def send_requests(url: str, clients: int, requests: int) -> list[Any]:
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
    """Sign-in, many clients, few threads and connections, a shutdown; and Django's own handler again."""
    url = request.getfixturevalue("postgresql") if database == "postgresql" else ""
    project = start_project(django_version, url)
    create_database(project)
    before = read_files(project.path / "mysite")
    old, new = add_core(project)
    with serve(project, server) as (running, client):
        assert sign_in(client).is_redirect
        assert "Site administration" in client.get("/admin/").text
        assert "Select user to change" in client.get("/admin/auth/user/").text
        answers = asyncio.run(send_requests(running.url, clients=48, requests=5))
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
    """They name what docs/how-to/existing-projects.md tells people to look for, once the app is installed."""
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
    assert "mysite.probe.SyncOnlyMiddleware makes each request to an async view use a thread" in said
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

    def run(folder: Path, template: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cookiecutter", "--no-input", template, "--directory", "core", *options]
        return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)

    handler = package / "mysite" / "serving" / "handler.py"
    assert run(package, os.path.relpath(ROOT, package)).returncode == 0
    assert handler.exists()
    shutil.rmtree(handler.parent)
    refusal = run(package.parent, os.path.relpath(ROOT, package.parent), "--output-dir", package.name)
    assert "Pass the absolute path of the template" in refusal.stderr
    assert not handler.parent.exists()
    assert run(package.parent, str(ROOT), "--output-dir", package.name).returncode == 0
    assert handler.exists()


# What differs by nature, between two servers that are asked the same one after the other.
VARIABLE_PARTS = [
    r"(?<=csrftoken=)\w+",
    r"(?<=sessionid=)\w+",
    r"\b[A-Za-z0-9]{64}\b",  # a masked CSRF token
    r"\b[0-9a-f]{40}\b",  # a token of Django REST framework
    r":\w{6}:[\w-]{43}\b",  # the end of a signed cookie: when it was signed, and the signature
    r"\w{3}, \d\d.\w{3}.\d{4} \d\d:\d\d:\d\d GMT",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+",
    r"\w+\.? \d{1,2}, \d{4}, (?:noon|midnight|[\d:]+ [ap]\.m\.)",
    r"\b\d\d:\d\d(?= by ada)",
    r"Just now|\d+\sminutes?\sago",
    r'(?<="modelNames": )\[[^]]+\]',  # a set of Wagtail's classes
]


def plain(response: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """The response without what differs by nature."""
    pattern = "|".join(VARIABLE_PARTS)
    headers = [(name, re.sub(pattern, "…", value)) for name, value in response.headers.multi_items() if name != "date"]
    return response.status_code, sorted(headers), re.sub(pattern.encode(), b"...", response.content)


Transcript = dict[str, tuple[int, list[tuple[str, str]], bytes]]


def crawl(client: httpx.Client, path: str, limit: int) -> Transcript:
    """What the pages answer that links lead to, page by page."""
    seen: Transcript = {}
    queue = deque([path])
    while queue and len(seen) < limit:
        if (path := queue.popleft()) not in seen:
            response = client.get(path)
            seen[path] = plain(response)
            links = re.findall(r'(?:href|src)="(/(?!/)[^"#]*)"', response.text)
            queue += [html.unescape(link) for link in links if not link.startswith("/static/")]
    return seen


def compare(project: Project, talk: Callable[[httpx.Client], Transcript]) -> Transcript:
    """Have the same talk with two copies of the project, one with the core, and find no difference. Returns it."""
    copy = replace(project, path=project.path.parent / "core" / project.slug)
    shutil.copytree(project.path, copy.path)
    add_core(copy)
    transcripts, tracebacks = [], []
    for each in (project, copy):
        with serve(each) as (running, client):
            transcripts.append(talk(client))
            tracebacks.append(running.output.count("Traceback"))
    expected, heard = transcripts
    assert heard.keys() == expected.keys()
    for step, answer in heard.items():
        old, new = (body.decode(errors="replace").splitlines() for *_, body in (expected[step], answer))
        assert answer == expected[step], "\n".join([step, *unified_diff(old, new, n=0, lineterm="")])
    assert len(set(tracebacks)) == 1
    return heard


def start_wagtail_site(path: Path, python: Path, settings: str = "") -> Project:
    """Run `wagtail start`, with asgi.py as docs/how-to/existing-projects.md has it, and create the database."""
    path.mkdir(parents=True)
    # Wagtail writes sets of words into its pages, in an order that is another in each process.
    variables = {"DJANGO_SETTINGS_MODULE": "mysite.settings.dev", "PYTHONHASHSEED": "0"}
    project = Project(path, {}, python, variables, "/admin/login/")
    project.run(str(python.parent / "wagtail"), "start", "mysite", str(path))
    (path / "mysite" / "asgi.py").write_text(code_blocks("existing-projects.md", "python")[1])
    (path / "mysite" / "settings" / "local.py").write_text(settings)
    create_database(project)
    return project


PAGE_FORM = {
    "title": "Threads and loops",
    "slug": "threads-and-loops",
    "action-publish": "action-publish",
    **{f"comments-{name}_FORMS": number for name, number in {"TOTAL": "0", "INITIAL": "0", "MAX_NUM": "1000"}.items()},
}


def talk_with_wagtail(client: httpx.Client) -> Transcript:
    said = crawl(client, "/", 5)
    said["signed in"] = plain(sign_in(client, "/admin/login/"))
    said["page added"] = plain(post_form(client, "/admin/pages/add/home/homepage/3/", PAGE_FORM))
    picture = (ROOT / "docs" / "screenshots" / "live-light.png").read_bytes()
    files = {"file": ("board.png", picture, "image/png")}
    said["image added"] = plain(post_form(client, "/admin/images/add/", {"title": "Board"}, files=files))
    said |= crawl(client, "/admin/", 40)
    for path in ("/threads-and-loops/", "/search/?query=threads", "/admin/pages/search/?q=loops", "/nothing/"):
        said[path] = plain(client.get(path))
    return said


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.0", "6.1")])
def test_wagtail(django_version: str, existing_project_environments: Callable[[str], Path], tmp_path: Path) -> None:
    site = start_wagtail_site(tmp_path / "mysite", existing_project_environments(django_version))
    said = compare(site, talk_with_wagtail)
    assert [said[step][0] for step in ("signed in", "page added", "image added")] == [302] * 3
    assert b"Threads and loops" in said["/search/?query=threads"][2]
    assert b"Threads and loops" in said["/admin/pages/search/?q=loops"][2]
    assert any(path.startswith("/media/images/") for path in said)
    assert len(said) > 40


LIBRARY_SETTINGS = """
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS += ["allauth", "allauth.account", "rest_framework", "rest_framework.authtoken"]
MIDDLEWARE += ["allauth.account.middleware.AccountMiddleware"]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend", "allauth.account.auth_backends.AuthenticationBackend"
]
LOCAL_MEMORY = "django.core.mail.backends.locmem.EmailBackend"
if "MAILERS" in globals():  # as startproject of Django 6.1 has it
    MAILERS["default"]["BACKEND"] = LOCAL_MEMORY
else:
    EMAIL_BACKEND = LOCAL_MEMORY
LOGIN_REDIRECT_URL = "/rest/users/"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication", "rest_framework.authentication.SessionAuthentication"
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
}
"""
LIBRARY_URLS = """
from django.contrib.auth.models import User
from django.urls import include
from ninja import NinjaAPI
from ninja.security import HttpBearer, django_auth
from rest_framework import routers, serializers, viewsets
from rest_framework.authtoken.models import Token
from rest_framework.authtoken.views import obtain_auth_token


class UserSerializer(serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ["id", "username", "email"]


class UserViewSet(viewsets.ModelViewSet):
    queryset = User.objects.order_by("id")
    serializer_class = UserSerializer

    def destroy(self, request, pk):
        raise RuntimeError("nobody is destroyed")


class AsyncBearer(HttpBearer):
    async def authenticate(self, request, token):
        return await Token.objects.select_related("user").filter(key=token).afirst()


ninja = NinjaAPI()


@ninja.get("/me", auth=django_auth)
def me(request):
    return {"username": request.user.username}


@ninja.get("/users", auth=AsyncBearer())
async def users(request, first: int = 1):
    return {"by": request.auth.user.username, "users": [user.username async for user in User.objects.filter(id__gte=first)]}


@ninja.get("/fail")
async def fail(request):
    raise RuntimeError("an error of the view")


rest = routers.DefaultRouter()
rest.register("users", UserViewSet)
urlpatterns += [
    path("accounts/", include("allauth.urls")),
    path("rest/", include(rest.urls)),
    path("rest/token/", obtain_auth_token),
    path("api/", ninja.urls),
]
"""


def talk_with_libraries(client: httpx.Client) -> Transcript:
    said = {"nobody": plain(client.get("/rest/users/")), "nobody, ninja": plain(client.get("/api/me"))}
    form = {"username": "grace", "email": "grace@example.com", "password1": "nano-second", "password2": "nano-second"}
    said["sign-up"] = plain(post_form(client, "/accounts/signup/", form))
    said["session"] = plain(client.get("/rest/users/"))
    said["session, in a browser"] = plain(client.get("/rest/users/", headers={"Accept": "text/html"}))
    said["session, ninja"] = plain(client.get("/api/me"))
    said["without a CSRF token"] = plain(client.post("/rest/users/", json={"username": "bob"}))
    proof = {"X-CSRFToken": client.cookies["csrftoken"]}
    said["added"] = plain(client.post("/rest/users/", json={"username": "bob"}, headers=proof))
    said["twice"] = plain(client.post("/rest/users/", json={"username": "bob"}, headers=proof))
    said["error, sync"] = plain(client.delete("/rest/users/1/", headers=proof))
    said["error, async"] = plain(client.get("/api/fail"))
    said["sign-out"] = plain(post_form(client, "/accounts/logout/", {}))
    said["wrong password"] = plain(post_form(client, "/accounts/login/", {"login": "grace", "password": "micro"}))
    said["password reset"] = plain(post_form(client, "/accounts/password/reset/", {"email": "grace@example.com"}))
    client.cookies.clear()

    response = client.post("/rest/token/", json={"username": "grace", "password": "nano-second"})
    said["token"] = plain(response)
    token = response.json()["token"]
    said["with the token"] = plain(client.get("/rest/users/", headers={"Authorization": f"Token {token}"}))
    bearer = {"Authorization": f"Bearer {token}"}
    said["with the token, ninja"] = plain(client.get("/api/users", headers=bearer))
    said["invalid, ninja"] = plain(client.get("/api/users?first=x", headers=bearer))
    said["wrong token"] = plain(client.get("/rest/users/", headers={"Authorization": "Token no"}))
    said["wrong token, ninja"] = plain(client.get("/api/users", headers={"Authorization": "Bearer no"}))
    return said | {path: plain(client.get(path)) for path in ("/api/openapi.json", "/api/docs", "/rest/nothing/")}


EXPECTED_STATUS = {
    "nobody": 401,
    "nobody, ninja": 401,
    "sign-up": 302,
    "session": 200,
    "session, in a browser": 200,
    "session, ninja": 200,
    "without a CSRF token": 403,
    "added": 201,
    "twice": 400,
    "error, sync": 500,
    "error, async": 500,
    "sign-out": 302,
    "wrong password": 200,
    "password reset": 302,
    "token": 200,
    "with the token": 200,
    "with the token, ninja": 200,
    "invalid, ninja": 422,
    "wrong token": 401,
    "wrong token, ninja": 401,
    "/api/openapi.json": 200,
    "/api/docs": 200,
    "/rest/nothing/": 404,
}


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.0", "6.1")])
def test_rest_framework_ninja_and_allauth(
    django_version: str,
    start_project: Callable[..., Project],
    existing_project_environments: Callable[[str], Path],
) -> None:
    project = start_project(django_version)
    project.python = existing_project_environments(django_version)
    append(project.path / "mysite" / "settings.py", LIBRARY_SETTINGS)
    append(project.path / "mysite" / "urls.py", LIBRARY_URLS)
    create_database(project)
    said = compare(project, talk_with_libraries)
    assert {step: answer[0] for step, answer in said.items()} == EXPECTED_STATUS
    assert b'"by": "grace", "users": ["ada", "grace", "bob"]' in said["with the token, ninja"][2]
