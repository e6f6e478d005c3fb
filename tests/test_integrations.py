"""The pages on Sentry, OpenTelemetry, allauth, Celery and the debug toolbar, followed in generated projects.

What sends data sends it to a server of the test, which stands where Sentry, a collector and an identity provider would.
"""

import base64
import json
import os
import re
import shlex
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.template import (
    PROJECT_TEMPLATE,
    ROOT,
    MakeProject,
    Project,
    Server,
    StartRedis,
    also_in_test_all,
    choose_python,
    code_blocks,
    edit,
    first_match,
    get_requirements,
    install_environment,
    page_text,
)

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="the Procfile's lines are for a POSIX shell, and Redis for Linux"
)
PAGES = ("allauth.md", "celery.md", "debug-toolbar.md", "opentelemetry.md", "sentry.md")
THREADS = 3


@pytest.fixture
def make_integrated_project(
    make_production_project: MakeProject, make_project: MakeProject, tmp_path: Path
) -> MakeProject:
    """`make_integrated_project(**answers)`: in production, with what the pages' `uv add` commands name."""
    commands = [
        line.split()
        for page in PAGES
        for line in "".join(code_blocks(page, "sh")).splitlines()
        if line.startswith("uv add")
    ]
    libraries = [shlex.split(word)[0] for command in commands for word in command[2:] if not word.startswith("--")]

    def make(**answers: Any) -> Project:
        project = make_production_project(**answers)
        version = project.answers["django_version"]
        base = choose_python()
        wanted = " ".join([str(base), version, *libraries, (ROOT / "hooks" / "post_gen_project.py").read_text()])
        wanted += (PROJECT_TEMPLATE / "pyproject.toml").read_text()
        folder = tmp_path / "requirements"
        project.python = install_environment(base, wanted, lambda: get_requirements(version, folder) + libraries)
        project.__dict__.pop("environment", None)
        return project

    return make


def insert(path: Path, code: str) -> None:
    """Put imports where ruff moves them to their places, and the rest at the end."""
    text = path.read_text() if path.exists() else '""""""\n'
    imports = "".join(re.findall(r"^(?:import|from) .+\n", code, re.MULTILINE))
    rest = re.sub(r"^(?:import|from) .+\n", "", code, flags=re.MULTILINE).strip()
    docstring = re.match(r'""".*?"""\n', text, re.DOTALL)
    head = docstring[0] if docstring else ""
    path.write_text(f"{head}\n{imports}\n{text.removeprefix(head).strip()}\n\n\n{rest}\n")


def apply_diff(path: Path, diff: str) -> None:
    old = "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[0] in " -")
    new = "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[0] in " +")
    edit(path, old, new)


@pytest.mark.exhaustive
def test_style(make_integrated_project: MakeProject) -> None:
    """Ruff sorts the imports, and finds nothing else; neither does mypy; tests still run."""
    project = make_integrated_project(channels=True)
    follow_pages(project)
    follow_debug_toolbar(project)
    project.run("ruff", "check", "--fix", "--quiet", "--select", "I")
    project.run("ruff", "format", "--quiet")
    for command in (["ruff", "check"], ["mypy"]):
        result = project.run(*command, check=False)
        assert result.returncode == 0, result.stdout
    for command in (["-m", "pytest", "--quiet", "pages"], ["manage.py", "test", "pages"]):
        project.run(project.python, *command)


class Backend(ThreadingHTTPServer):
    """Keeps what is sent to it, by path, and answers as a provider of OpenID Connect."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), BackendHandler)
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sent_to(self, path: str) -> list[bytes]:
        return [body for sent, body in [*self.bodies] if sent == path]


class BackendHandler(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        provider = {f"{name}_endpoint": f"{self.server.url}/{name}" for name in ("authorization", "token", "userinfo")}
        user = {"sub": "17", "preferred_username": "grace", "email": "grace@example.com"}
        is_user = self.path == "/userinfo" and self.headers["Authorization"] == "Bearer the-token"
        self.send_json(user if is_user else provider)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = {"Content-Encoding": self.headers.get("Content-Encoding", "identity")}
        self.server.bodies.append((self.path, httpx.Response(200, headers=encoding, content=body).content))
        self.send_json({"access_token": "the-token", "token_type": "bearer"} if self.path == "/token" else {})

    def send_json(self, data: Mapping[str, object]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


VIEWS = """
import asyncio
import time
from collections.abc import Iterator, Mapping

import sentry_sdk
from accounts.models import User
from django.http import StreamingHttpResponse
from django.urls import path


def fail(request: HttpRequest) -> HttpResponse:
    sentry_sdk.set_tag("number", request.GET["number"])
    time.sleep(0.02)
    raise ValueError(f"{User.objects.count()} sync")


async def async_fail(request: HttpRequest) -> HttpResponse:
    sentry_sdk.set_tag("number", request.GET["number"])
    await asyncio.sleep(0.02)
    raise ValueError(f"{await User.objects.acount()} async")


async def ping(request: HttpRequest) -> HttpResponse:
    return HttpResponse("pong")


def hold(request: HttpRequest) -> HttpResponse:
    time.sleep(2)
    return HttpResponse("held")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        yield b"1"
        time.sleep(2)
        yield b"2"

    return StreamingHttpResponse(parts())


more_urlpatterns = [
    path("fail/", fail),
    path("async-fail/", async_fail),
    path("ping/", ping),
    path("hold/", hold),
    path("stream/", stream),
    path("join/", join),
]
"""


@pytest.mark.parametrize(
    ("django_version", "server"), [("5.2", "uvicorn"), *also_in_test_all(("6.1", "granian"), ("6.1", "daphne"))]
)
def test_in_production(
    django_version: str,
    server: str,
    make_integrated_project: MakeProject,
    backend: Backend,
    redis: StartRedis,
) -> None:
    """All of them in one project, on one server."""
    project = make_integrated_project(server=server, channels=True, django_version=django_version)
    follow_pages(project)
    [migrate] = code_blocks("allauth.md", "sh")[1:]
    project.manage(*migrate.removeprefix("uv run manage.py ").split())
    with redis() as (redis_url, _):
        variables = dict(line.split("=") for line in code_blocks("opentelemetry.md", "text")[0].splitlines())
        project.variables |= variables | {
            "ASGI_THREADS": str(THREADS),
            "CELERY_BROKER_URL": redis_url,
            "EMAIL_URL": "console://",
            "OIDC_CLIENT_ID": "client",
            "OIDC_SECRET": "secret",
            "OIDC_URL": backend.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "SENTRY_DSN": f"{backend.url.replace('://', '://public@')}/1",
        }
        project.__dict__.pop("environment", None)
        with project.run_server("web", "celery") as running, running.client() as client:
            with ThreadPoolExecutor(12) as executor:
                paths = [f"/{'async-' * (number % 2)}fail/?number={number}" for number in range(40)]
                assert set(executor.map(lambda path: client.get(path).status_code, paths)) == {500}
            check_sentry(running, backend)
            check_threads(client)
            check_allauth(client, backend, project)
            check_celery(running, client)
            check_opentelemetry(running, backend, project)
            assert "Failed to detach" not in running.output
            assert Counter(re.findall(r"^(\w+Error): ", running.output, re.MULTILINE)) == {"ValueError": len(paths)}


def follow_pages(project: Project) -> None:
    package, app = project.path / project.slug, project.path / "pages"
    insert(package / "settings.py", code_blocks("sentry.md", "python")[0])

    telemetry, import_telemetry = code_blocks("opentelemetry.md", "python")
    (package / "telemetry.py").write_text(telemetry)
    insert(package / "asgi.py", "")
    [diff] = code_blocks("opentelemetry.md", "diff")
    apply_diff(package / "asgi.py", diff)
    edit(
        package / "asgi.py",
        f"from {project.slug}.serving.threads",
        f"{import_telemetry}from {project.slug}.serving.threads",
    )

    settings, import_view = code_blocks("allauth.md", "python")
    insert(package / "settings.py", settings)
    edit(package / "urls.py", "from django.urls", f"{import_view}from django.urls")
    policy, urls, types = code_blocks("allauth.md", "diff")
    apply_diff(project.path / "pyproject.toml", types)
    apply_diff(package / "settings.py", policy)
    apply_diff(package / "urls.py", urls)
    layout = package / "templates" / first_match(r"`templates/(.+?)`", page_text("allauth.md"))
    layout.parent.mkdir(parents=True)
    layout.write_text(code_blocks("allauth.md", "html")[0])

    celery, init, setting, task, view = code_blocks("celery.md", "python")
    (package / "celery.py").write_text(celery)
    (package / "__init__.py").write_text(init)
    insert(package / "settings.py", setting)
    (app / "tasks.py").write_text(task)
    insert(app / "views.py", view + VIEWS)
    insert(app / "urls.py", "from .views import more_urlpatterns\nurlpatterns += more_urlpatterns\n")
    with (project.path / "Procfile").open("a") as procfile:
        procfile.write(code_blocks("celery.md", "text")[0])
    _, worker = code_blocks("celery.md", "sh")
    assert project.procfile()["celery"] == worker.strip().replace("uv run", "exec")


def follow_debug_toolbar(project: Project) -> None:
    settings, urls = code_blocks("debug-toolbar.md", "python")
    insert(project.path / "wiki" / "settings.py", settings)
    insert(project.path / "wiki" / "urls.py", urls)


def read_envelope(body: bytes) -> Iterator[tuple[str, Any]]:
    """The items of what Sentry's SDK sends, each with its type."""
    _, _, rest = body.partition(b"\n")
    while rest:
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        payload, rest = rest[: header["length"]], rest[header["length"] + 1 :]
        yield header["type"], json.loads(payload)


def check_sentry(running: Server, backend: Backend) -> None:
    """Each error is reported once, with what belongs to its own request."""

    def events() -> list[dict[str, Any]]:
        items = [item for body in backend.sent_to("/api/1/envelope/") for item in read_envelope(body)]
        return [event for kind, event in items if kind == "event"]

    running.wait_until(lambda: len(events()) >= 40)
    seen = set()
    for event in events():
        number = event["tags"]["number"]
        kind = "async" if int(number) % 2 else "sync"
        assert event["request"]["url"] == f"https://example.com/{'async-' * (kind == 'async')}fail/"
        assert event["request"]["query_string"] == f"number={number}"
        assert event["exception"]["values"][-1]["value"] == f"1 {kind}"
        queries = [each for each in event["breadcrumbs"]["values"] if each["category"] == "query"]
        assert len([query for query in queries if "accounts_user" in query["message"]]) == 1
        seen.add(number)
    assert len(events()) == len(seen) == 40


def check_threads(client: httpx.Client) -> None:
    """While all threads are at work, a request to an async view takes none."""
    with ThreadPoolExecutor(THREADS + 3) as executor:
        held = [executor.submit(client.get, "/hold/") for _ in range(THREADS + 2)]
        time.sleep(0.7)
        started = time.monotonic()
        assert client.get("/ping/").text == "pong"
        assert time.monotonic() - started < 1
        assert [each.result().text for each in held] == ["held"] * (THREADS + 2)
    assert client.get("/stream/").text == "12"


def check_opentelemetry(running: Server, backend: Backend, project: Project) -> None:
    spans = [
        span
        for message in decode(project, "trace", backend.sent_to("/v1/traces"))
        for resource in message["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    names = Counter(span["name"] for span in spans)
    assert (names["GET /fail/"], names["GET /async-fail/"], names["GET /hold/"]) == (20, 20, THREADS + 2)
    assert len({span["traceId"] for span in spans}) == len(spans), "each request is a trace of its own"
    numbers: dict[str, list[int]] = {}
    for message in decode(project, "metrics", backend.sent_to("/v1/metrics")):
        for resource in message["resourceMetrics"]:
            assert {"key": "service.name", "value": {"stringValue": "wiki"}} in resource["resource"]["attributes"]
            for metric in [metric for scope in resource["scopeMetrics"] for metric in scope["metrics"]]:
                for point in metric.get("gauge", metric.get("sum", {})).get("dataPoints", []):
                    numbers.setdefault(metric["name"], []).append(int(point["asInt"]))
                numbers.setdefault(metric["name"], [])
    assert set(numbers["asgi.threads.size"]) == {THREADS}
    assert (min(numbers["asgi.threads.used"]), max(numbers["asgi.threads.used"])) == (0, THREADS)
    assert min(numbers["asgi.threads.waiting"]) == 0
    assert max(numbers["asgi.threads.waiting"]) >= 2
    assert (min(numbers["asgi.threads.streams"]), max(numbers["asgi.threads.streams"])) == (0, 1)
    for name in re.findall(r"^\| `(.+?)`", page_text("opentelemetry.md"), re.MULTILINE):
        assert name in numbers, name


def decode(project: Project, kind: str, bodies: list[bytes]) -> list[dict[str, Any]]:
    """Decode the messages of OTLP where its classes are installed: in the project's environment."""
    (project.path / "bodies.json").write_text(json.dumps([base64.b64encode(body).decode() for body in bodies]))
    module = f"opentelemetry.proto.collector.{kind}.v1.{kind}_service_pb2"
    name = f"Export{kind.title()}ServiceRequest"
    script = (
        "import base64, json\nfrom google.protobuf.json_format import MessageToDict\n"
        f"from {module} import {name} as Message\n"
        "bodies = [base64.b64decode(body) for body in json.load(open('bodies.json'))]\n"
        "print(json.dumps([MessageToDict(Message.FromString(body)) for body in bodies]))\n"
    )
    messages: list[dict[str, Any]] = json.loads(project.run(project.python, "-c", script).stdout)
    return messages


def post_form(client: httpx.Client, path: str, **form: str) -> httpx.Response:
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)
    headers = {"Origin": "https://example.com"}
    return client.post(path, data=form | {"csrfmiddlewaretoken": token}, headers=headers)


def check_allauth(client: httpx.Client, backend: Backend, project: Project) -> None:
    """Sign-up, sign-in, sign-in by the provider, and the limit on wrong passwords, in the site's own look."""
    assert client.get("/accounts/register/").headers["Location"] == "/accounts/signup/"
    sign_up = client.get("/accounts/signup/")
    assert 'class="site-header"' in sign_up.text
    assert "https://login.example.com" in sign_up.headers["Content-Security-Policy"]
    password = {"password1": "nano-second", "password2": "nano-second"}
    assert post_form(client, "/accounts/signup/", username="bob", email="bob@example.com", **password).is_redirect
    assert ">bob</a>" in client.get("/").text
    assert post_form(client, "/accounts/logout/").is_redirect
    assert post_form(client, "/accounts/login/", login="bob", password="nano-second").is_redirect
    assert ">bob</a>" in client.get("/").text
    assert post_form(client, "/accounts/logout/").is_redirect

    to_provider = urlsplit(post_form(client, "/accounts/oidc/company/login/").headers["Location"])
    asked = {name: value for name, [value] in parse_qs(to_provider.query).items()}
    assert f"{to_provider.scheme}://{to_provider.netloc}{to_provider.path}" == f"{backend.url}/authorization"
    back = client.get(asked["redirect_uri"], params={"state": asked["state"], "code": "the-code"})
    assert back.is_redirect, back.text
    assert ">grace</a>" in client.get("/").text
    assert post_form(client, "/accounts/logout/").is_redirect

    for _ in range(12):
        assert not post_form(client, "/accounts/login/", login="ada", password="wrong").is_redirect
    assert not post_form(client, "/accounts/login/", login="ada", password="analytical-engine").is_redirect
    query = "SELECT failures_since_start FROM axes_accessattempt WHERE username = 'ada'"
    with closing(sqlite3.connect(project.path / "db.sqlite3")) as database:
        [(failures,)] = database.execute(query)
    assert failures > 1, "the project's own limit counts them as well"


def check_celery(running: Server, client: httpx.Client) -> None:
    assert client.get("/join/?address=eve@example.com").text == "Look into your mail."
    running.wait_until(lambda: "To: eve@example.com" in running.output)


TOOLBAR_VIEWS = """
import asyncio

from accounts.models import User


async def count_async(request: HttpRequest) -> HttpResponse:
    for _ in range(int(request.GET["queries"])):
        await User.objects.acount()
        await asyncio.sleep(0.01)
    return render(request, "base.html", {"user": None})


def count_sync(request: HttpRequest) -> HttpResponse:
    for _ in range(int(request.GET["queries"])):
        User.objects.count()
        time.sleep(0.01)
    return render(request, "base.html", {"user": None})
"""


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_in_development(django_version: str, make_integrated_project: MakeProject) -> None:
    project = make_integrated_project(django_version=django_version)
    follow_debug_toolbar(project)
    insert(project.path / "pages" / "views.py", TOOLBAR_VIEWS)
    insert(
        project.path / "pages" / "urls.py",
        "urlpatterns += [path('count-sync/', views.count_sync), path('count-async/', views.count_async)]\n",
    )
    assert "no issues" in project.manage("check", "--deploy").stdout
    project.variables |= {"DJANGO_DEBUG": "true", "DJANGO_ALLOWED_HOSTS": ""}
    project.__dict__.pop("environment", None)
    with project.run_dev_server() as running, running.client(https=False) as client:
        with ThreadPoolExecutor(12) as executor:
            asked = [(kind, number % 5 + 1) for number in range(20) for kind in ("sync", "async")]
            answers = executor.map(lambda each: client.get(f"/count-{each[0]}/?queries={each[1]}").text, asked)
            for (kind, queries), text in zip(asked, answers, strict=True):
                assert re.search(rf"<small>\s*{queries} quer(y|ies) in ", text), (kind, queries, text)
        panel = first_match(r'data-(?:store|request)-id="(\w+)"', text)
        assert client.get(f"/__debug__/render_panel/?store_id={panel}&request_id={panel}&panel_id=SQLPanel").is_success
    project.in_production(DJANGO_DEBUG="false")
    with project.run_server() as running, running.client() as client:
        assert "djDebug" not in client.get("/").text
