"""The commands and the code of the pages in docs/, run in a generated project."""

import ast
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx
import pytest
import yaml
from websockets.sync.client import connect
from websockets.typing import Origin

from scripts import reference
from tests import template
from tests.template import (
    IN_CI,
    PAGES,
    ROOT,
    MakeProbeProject,
    MakeProject,
    Project,
    also_in_test_all,
    code_blocks,
    edit,
    first_match,
    free_port,
)

# Each has its test here, except for updating.md (test_updates.py), observability.md (test_observability.py), uploads.md
# (test_pages.py), wiki.md (test_tutorial.py), and those of the last line (test_integrations.py).
PAGES_WITH_COMMANDS = {"README.md", "background-tasks.md", "benchmarks.md", "deploying.md", "existing-projects.md"}
PAGES_WITH_COMMANDS |= {
    "http2.md",
    "kubernetes.md",
    "observability.md",
    "other-asgi.md",
    "updating.md",
    "uploads.md",
    "wiki.md",
}
PAGES_WITH_COMMANDS |= {"allauth.md", "celery.md", "debug-toolbar.md", "opentelemetry.md", "sentry.md"}
# Replaces the clients of hosts and clusters, which tests cannot use, and records its arguments.
FAKE_CLIENT = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
for word in "$@"; do
    case "$word" in deploy/*) test -e "$word" || exit 1 ;; esac
done
"""


class RunCommands(Protocol):
    def __call__(
        self, commands: str, folder: Path, *fake_clients: str, answers: str = "", **variables: str
    ) -> list[str]: ...


@pytest.fixture
def run_commands(tmp_path: Path) -> RunCommands:
    """`run_commands(commands, folder, *fake_clients)` runs a page's commands, and returns the calls of the fake clients.

    The repository that the pages name is this one, questions get `answers` and then the default, and dependencies are installed already.
    """
    home = tmp_path / "home"
    (home / "ORG").mkdir(parents=True)
    (home / "ORG" / "cookiecutter-django-asgi").symlink_to(ROOT)
    rc = f"abbreviations: {{gh: '{home}/{{0}}'}}\nreplay_dir: {home}/replay\ncookiecutters_dir: {home}/templates\n"
    (home / "cookiecutterrc").write_text(rc)
    calls = home / "calls"
    calls.touch()
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_NO_SYNC")}
    environment |= {"COOKIECUTTER_CONFIG": str(home / "cookiecutterrc"), "CALLS": str(calls)}

    def run(commands: str, folder: Path, *fake_clients: str, answers: str = "", **variables: str) -> list[str]:
        programs = home / "bin"
        for name in fake_clients:
            programs.mkdir(exist_ok=True)
            (programs / name).write_text(FAKE_CLIENT)
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}{environment['PATH']}"
        template.run_commands(commands, folder, answers, environment | {"PATH": path} | variables)
        return calls.read_text().splitlines()

    return run


def test_every_page_with_commands_is_tested() -> None:
    commands = r"(uv|uvx|docker|manage\.py|python|pip|cruft|git|fly|heroku|kubectl|systemctl|make) [a-z-]"
    for page in PAGES.values():
        text = page.read_text(encoding="utf-8")
        assert bool(code_blocks(page.name, "sh")) == (page.name in PAGES_WITH_COMMANDS), page.name
        outside = re.sub(r"^```\w+\n.+?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(rf"^    {commands}", outside, re.MULTILINE), f"{page.name}: no block of sh"


# Blocks, by how they begin, that no test runs or compares with a file, and why.
BLOCKS_WITHOUT_TEST: dict[str, str] = {}
# The commands "uv add" are run by test_integrations.py, the tutorial by test_tutorial.py, and the reference is generated.
COMMANDS_THAT_ADD = re.compile(r"(?:uv add .+\n)+")


def test_every_block_of_code_is_tested() -> None:
    """A test takes it from its page by `code_blocks`, under a name or an index; a name that begins with `_` does not count."""
    tested = {
        block
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for call, parents in calls_of_code_blocks(ast.parse(path.read_text(encoding="utf-8")))
        for block in blocks_taken(call, parents)
    }
    untested = [
        (name, block)
        for name, page in PAGES.items()
        if name not in {"wiki.md", *reference.PAGES}
        for block in re.findall(r"^ *```\w*\n(.+?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        if block not in tested and not COMMANDS_THAT_ADD.fullmatch(block)
    ]
    unexplained = [(name, block) for name, block in untested if not block.startswith(tuple(BLOCKS_WITHOUT_TEST))]
    assert unexplained == [], "write a test that takes these blocks by code_blocks"
    assert [start for start in BLOCKS_WITHOUT_TEST if not any(block.startswith(start) for _, block in untested)] == []


def calls_of_code_blocks(tree: ast.AST, parents: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.Call, list[ast.AST]]]:
    for node in ast.iter_child_nodes(tree):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "code_blocks"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node, [*parents, tree]
        yield from calls_of_code_blocks(node, (*parents, tree))


def blocks_taken(call: ast.Call, parents: list[ast.AST]) -> list[str]:
    """The blocks that a test uses of those that this call gives it."""
    page, language = (argument.value if isinstance(argument, ast.Constant) else r"\w+" for argument in call.args)
    blocks = code_blocks(str(page), str(language))
    parent = parents[-1]
    if isinstance(parent, ast.Subscript) and not isinstance(parent.slice, ast.Slice):
        return [blocks[ast.literal_eval(parent.slice)]]
    if isinstance(parent, ast.comprehension) and parent.ifs and isinstance(parent.ifs[0], ast.Compare):
        text = parent.ifs[0].left
        return [block for block in blocks if not isinstance(text, ast.Constant) or str(text.value) in block]
    if isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Tuple | ast.List):
        return named_blocks(parent.targets[0].elts, blocks)
    if isinstance(parent, ast.Tuple) and isinstance(parents[-2], ast.Assign):
        [targets] = parents[-2].targets
        assert isinstance(targets, ast.Tuple)
        target = targets.elts[parent.elts.index(call)]
        return named_blocks(target.elts, blocks) if isinstance(target, ast.Tuple | ast.List) else blocks
    return blocks


def named_blocks(names: list[ast.expr], blocks: list[str]) -> list[str]:
    if any(isinstance(name, ast.Starred) for name in names):
        first = isinstance(names[0], ast.Starred)
        if not ast.unparse(names[0 if first else -1]).startswith("*_"):
            return blocks
        return blocks[1 - len(names) :] if first else blocks[: len(names) - 1]
    return [block for name, block in zip(names, blocks, strict=True) if not ast.unparse(name).startswith("_")]


def test_readme(run_commands: RunCommands, tmp_path: Path) -> None:
    start, targets, without_questions = code_blocks("README.md", "sh")
    *before, last = start.splitlines()
    run_commands("\n".join(before), tmp_path)
    assert (tmp_path / "my_site" / "db.sqlite3").exists()
    port = free_port()
    serve(f"{last} --port {port}", tmp_path / "my_site", port)
    run_commands(without_questions, tmp_path)
    assert "granian wiki.asgi" in (tmp_path / "wiki" / "Procfile").read_text()

    demo, *tests = targets.splitlines()
    assert [line.split(" #")[0].strip() for line in tests] == ["make test", "make test-all"]  # which run this test
    port = free_port()
    serve(f"{demo.partition(' #')[0]} PORT={port}", ROOT, port)


def serve(command: str, folder: Path, port: int) -> None:
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=20) as client:
            wait_for(client, process)
            assert "My Site is up" in client.get("/").text
    finally:
        with suppress(ProcessLookupError):  # it has exited, and the test has failed
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^make (\S+) +\S", listed, re.MULTILINE) == targets
    assert {"demo", "test", "check", "clean"} < set(targets)


@pytest.mark.skipif(sys.platform != "linux", reason="servers are pinned to cores by taskset, which is Linux's")
@pytest.mark.skipif(shutil.which("wrk") is None and not IN_CI, reason="wrk is not installed")
def test_benchmarks(run_commands: RunCommands, tmp_path: Path) -> None:
    """One measurement of one candidate, to see that it runs; no results are saved."""
    [command] = code_blocks("benchmarks.md", "sh")
    assert command == "make bench\n"
    makefile = (ROOT / "Makefile").read_text()
    assert "python benchmarks/run.py\n" in makefile
    options = "--rounds 1 --seconds 1 --views sync_hello --only 'generated, uvicorn, sqlite'"
    run_commands(f"python benchmarks/run.py {options} > {tmp_path}/figures", ROOT)
    assert re.search(r"sync_hello +[\d,.]+\n", (tmp_path / "figures").read_text())


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_background_tasks(django_version: str, make_project: MakeProject, run_commands: RunCommands) -> None:
    settings, task, view = code_blocks("background-tasks.md", "python")
    add, add_to_old, work = code_blocks("background-tasks.md", "sh")
    project = make_project(django_version=django_version)
    if django_version == "5.2":
        add, task = add_to_old, task.replace("from django.tasks import task", "from django_tasks import task")
    run_commands(add, project.path, UV_NO_SYNC="1")
    append(project.path / "wiki" / "settings.py", settings)
    append(project.path / "pages" / "tasks.py", task)
    append(project.path / "pages" / "views.py", view)
    append(project.path / "pages" / "urls.py", 'urlpatterns.append(path("join/", views.join))')
    migrate, worker = [line.replace("uv run", str(project.python)) for line in work.splitlines()]
    project.run(*migrate.split())
    with project.run_server() as running:
        assert httpx.get(f"{running.url}/join/?address=ada@example.com").text == "Look into your mail."
    assert "To: ada@example.com" in project.run(*worker.split(), "--batch").stdout
    procfile = (ROOT / "{{cookiecutter.project_slug}}" / "Procfile").read_text()
    assert code_blocks("background-tasks.md", "text")[0] in procfile


def append(path: Path, code: str) -> None:
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{code}\n")


def test_code_of_the_pages(make_project: MakeProject) -> None:
    """Views, a stream, a consumer and a bare application, as the pages show them."""
    [bare] = code_blocks("asgi.md", "python")
    [dashboard] = code_blocks("async-views.md", "python")
    streams = "\n".join(code_blocks("streams.md", "python"))
    publish, newcomers = code_blocks("push.md", "python")
    [consumer] = code_blocks("websockets.md", "python")
    project = make_project(starter="live", channels=True)
    project.manage("migrate")
    port = free_port()
    append(project.path / "bare.py", bare)
    imports = "import asyncio\nfrom accounts.models import User\nfrom django.shortcuts import render"
    named = f"WEATHER = NEWS = 'http://127.0.0.1:{port}/livez'\nasync def latest():\n    return 'news'"
    append(project.path / "status" / "views.py", f"{imports}\n{named}\n{dashboard}\n{streams}\n{newcomers}")
    append(project.path / "status" / "models.py", publish)
    (project.path / "status" / "templates" / "dashboard.html").write_text("{{ weather.status }}, {{ news.status }}")
    paths = "path('dashboard/', views.dashboard), path('stream/', views.events), path('signups/', views.signups)"
    paths += ", path('newcomers/', views.newcomers)"
    project.manage("shell", "--command", "User.objects.create_user('ada'); User.objects.create_user('bob')")
    append(project.path / "status" / "urls.py", f"urlpatterns += [{paths}]")
    routing = project.path / "wiki" / "routing.py"
    [patterns] = re.findall(r"^websocket_urlpatterns = \[$.+?^\]$", routing.read_text(), re.MULTILINE | re.DOTALL)
    edit(routing, patterns, f"from channels.generic.websocket import AsyncJsonWebsocketConsumer\n\n\n{consumer}")
    with project.run_server(port=port) as running:
        assert httpx.get(f"{running.url}/dashboard/").text == "ok, ok"
        with httpx.stream("GET", f"{running.url}/stream/") as response:
            assert "data: news" in itertools.islice(response.iter_lines(), 3)
        for headers, first in (({}, 1), ({"Last-Event-ID": "1"}, 2)):
            with httpx.stream("GET", f"{running.url}/signups/", headers=headers) as response:
                assert f"id: {first}" in itertools.islice(response.iter_lines(), 3)
        with httpx.stream("GET", f"{running.url}/newcomers/", headers={"Last-Event-ID": "2"}) as response:
            lines = response.iter_lines()
            assert next(lines) == ": keep-alive"
            project.manage("shell", "--command", "User.objects.create_user('eve')")
            assert "id: 3" in itertools.islice(lines, 3)
        with connect(f"ws://127.0.0.1:{port}/ws/echo/", origin=Origin(f"http://127.0.0.1:{port}")) as socket:
            socket.send('{"echo": 1}')
            assert socket.recv() == '{"echo": 1}'
    command = ["uvicorn", "bare:application", "--port", str(port)]
    with project.run_process(command, port) as running:
        assert httpx.get(running.url).text == "Hello"


def test_kubernetes(run_commands: RunCommands, make_project: MakeProject) -> None:
    write, secret, release = code_blocks("kubernetes.md", "sh")
    project = make_project(project_name="My Site", database="postgresql")
    run_commands(write, project.path)
    run_commands(secret, project.path, "kubectl")
    calls = run_commands(release, project.path, "kubectl")
    [job] = [call.split("job/")[1] for call in calls if "wait" in call]
    manifests = project.path / "deploy" / "kubernetes"
    assert yaml.safe_load((manifests / "migrate.yaml").read_text())["metadata"]["name"] == job
    [name] = [call.split()[4] for call in calls if "secret generic" in call]
    deployment = yaml.safe_load((manifests / "deployment.yaml").read_text())
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert {"secretRef": {"name": name}} in container["envFrom"]


@pytest.mark.parametrize(
    "commands", code_blocks("http2.md", "sh"), ids=lambda commands: commands.splitlines()[-1].split()[0]
)
def test_http2(
    commands: str, make_project: MakeProject, certificate: Callable[[Path], None], run_commands: RunCommands
) -> None:
    *before, command = commands.splitlines()
    server = command.split()[0]
    project = make_project(server=server)
    run_commands("\n".join(before), project.path, UV_NO_SYNC="1")
    certificate(project.path)
    project.manage("migrate")
    port = free_port()
    process = subprocess.Popen(
        shlex.split(command.replace("8443", str(port))),
        cwd=project.path,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx.Client(http2=True, verify=False, base_url=f"https://localhost:{port}", timeout=20) as client:
            answer = wait_for(client, process)
            assert answer.http_version == "HTTP/2"
            pages = [client.get(path) for path in ("/", "/async/", "/sync/", "/accounts/login/", "/static/site.css")]
            assert [(page.status_code, page.http_version) for page in pages] == [(200, "HTTP/2")] * 5
            token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', pages[3].text)
            cookies = [("Cookie", "theme=dark"), ("Cookie", f"csrftoken={client.cookies['csrftoken']}")]
            client.cookies.clear()
            headers = [("Origin", str(client.base_url)), *cookies]  # browsers send one header per cookie
            form = {"username": "ada", "password": "wrong", "csrfmiddlewaretoken": token}
            assert "errorlist" in client.post("/accounts/login/", data=form, headers=headers).text
        with httpx.Client(verify=False, base_url=f"https://localhost:{port}", timeout=20) as client:
            assert client.get("/livez").http_version == "HTTP/1.1"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for(client: httpx.Client, process: subprocess.Popen[str]) -> httpx.Response:
    for _ in range(200):
        try:
            return client.get("/livez")
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    raise AssertionError("The server did not start.")


VIEWS_FOR_USERS = """
from django.contrib.auth.decorators import login_required, user_passes_test
from django.shortcuts import render


async def shows_user(request):
    return render(request, "base.html")


async def passes_user(request):
    return render(request, "base.html", {"user": await request.auser()})


views = [shows_user, passes_user, login_required(passes_user), user_passes_test(lambda user: user.is_staff)(passes_user)]
urlpatterns += [path(f"view-{number}/", view) for number, view in enumerate(views)]
"""


@pytest.mark.parametrize("django_version", ["6.1", *also_in_test_all("5.2")])
def test_users_in_async_views(django_version: str, make_production_project: MakeProject) -> None:
    """Views that fail after sign-in log the reason; the code in docs/how-to/async-views.md works."""
    project = make_production_project(django_version=django_version)
    with (project.path / "wiki" / "urls.py").open("a") as urls:
        urls.write(VIEWS_FOR_USERS)
    with project.run_server() as running, running.client() as client:
        assert [client.get(f"/view-{number}/").status_code for number in range(4)] == [200, 200, 302, 302]
        assert "await request.auser()" not in running.output
        assert sign_in(client, "198.51.100.7", "analytical-engine") == 302
        assert [client.get(f"/view-{number}/").status_code for number in range(4)] == [500, 200, 200, 200]
        running.wait_until(lambda: '{"user": await request.auser()}' in running.output, seconds=5)


def test_other_middleware_and_applications(make_probe_project: MakeProbeProject, run_commands: RunCommands) -> None:
    cors, beside, slow, settings = code_blocks("other-asgi.md", "python")
    project = make_probe_project()
    asgi = project.path / "wiki" / "asgi.py"
    asgi.write_text(asgi.read_text() + beside + cors)
    (project.path / "probe" / "urls.py").write_text(
        (project.path / "probe" / "urls.py").read_text() + f"\n\n{slow}\nurlpatterns.append(path('digest/', digest))\n"
    )
    (project.path / "wiki" / "production.py").write_text(settings)
    *add, command = code_blocks("other-asgi.md", "sh")
    run_commands("".join(add), project.path, UV_NO_SYNC="1")
    variable, value = command.split()[0].split("=")
    project.variables[variable] = value
    project.__dict__.pop("environment", None)
    with project.run_server() as running, running.client() as client:
        assert client.get("/api/users").json() == {"users": 0}
        home = client.get("/", headers={"Origin": "https://app.example.com"})
        assert home.status_code == 200
        assert home.headers["access-control-allow-origin"] == "https://app.example.com"
        assert len(client.get("/probe/digest/?q=word").text) == 128
        show = "from django.conf import settings; print(settings.SESSION_ENGINE)"
        assert "signed_cookies" in project.manage("shell", "--no-imports", "--command", show).stdout


def test_commands_for_hosts(make_project: MakeProject, run_commands: RunCommands, tmp_path: Path) -> None:
    _, compose, compose_web, heroku, add_redis, scale, launch, deploy, release = code_blocks("deploying.md", "sh")
    assert compose == "docker compose up --build --detach\n"  # test_containers.py does, and what is around it:
    assert compose_web == "docker compose up --build --detach web\n"
    project = make_project()
    calls = run_commands(heroku.replace("git push heroku main", ""), project.path, "heroku")
    settings = first_match(r"config:set (.+)", "\n".join(calls))
    assert re.fullmatch(r"DJANGO_SECRET_KEY=\w{100} DJANGO_ALLOWED_HOSTS=\S+ FORWARDED_ALLOW_IPS=\*", settings)
    assert run_commands(add_redis, project.path, "heroku")[-1] == "heroku config:set REDIS_SSL_CERT_REQS=none"
    assert run_commands(scale, project.path, "heroku")[-1] == "heroku ps:scale worker=1 checker=1"
    assert run_commands(launch + deploy, project.path, "fly")[-1] == "fly deploy"

    server, origin = tmp_path / "srv", tmp_path / "origin.git"
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    run_commands("git init -q && git add . && uv lock -q && git add uv.lock", project.path)
    run_commands(shlex.join(["git", *identity, "commit", "-q", "-m", "wiki"]), project.path)
    run_commands(f"git clone -q --bare {project.path} {origin} && git clone -q {origin} {server}", tmp_path)
    run_commands(
        "git remote add heroku " + str(origin) + " && git branch -M main && git push heroku main", project.path
    )
    variables = tmp_path / "wiki.env"
    values = project.in_production(f"sqlite:///{server}/db.sqlite3").variables
    variables.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    calls = run_commands(release.replace("/etc/wiki.env", str(variables)), server, "sudo")
    assert calls[-1] == "sudo systemctl restart wiki"
    assert (server / "db.sqlite3").exists()
    assert (server / "staticfiles" / "staticfiles.json").exists()
    assert not (server / ".venv" / "bin" / "pytest").exists()


def test_files_for_hosts(make_project: MakeProject, tmp_path: Path) -> None:
    """They parse, match the project, and start it by its Procfile line."""
    project = make_project(database="postgresql")
    fly_toml, processes = code_blocks("deploying.md", "toml")
    _, render_yaml = code_blocks("deploying.md", "yaml")
    [unit] = code_blocks("deploying.md", "ini")
    fly, render = tomllib.loads(fly_toml), yaml.safe_load(render_yaml)
    release = project.procfile()["release"]
    assert fly["deploy"]["release_command"] == release
    assert render["services"][0]["preDeployCommand"] == release
    dockerfile = (project.path / "Dockerfile").read_text()
    assert f"EXPOSE {fly['http_service']['internal_port']}\n" in dockerfile
    web = project.procfile()["web"].replace("0.0.0.0", "127.0.0.1").replace("${PORT:-8000}", "8000")
    web = web.replace(" --workers ${WEB_CONCURRENCY:-1}", "")
    assert f'ExecStart=/bin/sh -c "{web}"\n' in unit
    lines = make_project(project_name="live", project_slug="live", starter="live").procfile()
    [checked] = tomllib.loads(processes).values()
    for name in ("worker", "checker"):
        assert lines[name] == f"exec {checked[name]}"
    web_on_fly = (
        project.procfile()["web"].replace("${PORT:-8000}", "8000").replace(" --workers ${WEB_CONCURRENCY:-1}", "")
    )
    assert checked["web"] == f"sh -c '{web_on_fly}'"
    variables = {each["key"] for each in render["services"][0]["envVars"]} | set(fly["env"])
    readme = (project.path / "README.md").read_text()
    assert [name for name in variables if f"`{name}`" not in readme] == []
    if shutil.which("systemd-analyze"):
        (tmp_path / "wiki.service").write_text(unit)
        result = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / "wiki.service"], capture_output=True, text=True, check=False
        )
        assert [line for line in result.stderr.splitlines() if "wiki.service" in line] == []


def test_visitors_have_their_own_address_on_each_host(make_production_project: MakeProject) -> None:
    """X-Forwarded-For as each host sends it, with a forged part from the client."""
    fly = tomllib.loads(code_blocks("deploying.md", "toml")[0])["env"]["FORWARDED_ALLOW_IPS"]
    [cloudflare] = code_blocks("deploying.md", "text")
    project = make_production_project()
    for trusted, proxies in (
        ("*", ""),
        (fly, ", 66.241.124.1"),
        (cloudflare.strip(), ", 104.22.17.40"),
        (f"{cloudflare.strip()},66.241.124.1", ", 104.22.17.40, 66.241.124.1"),
    ):
        project.manage("shell", "--command", "from axes.utils import reset; reset()")
        with project.run_server(FORWARDED_ALLOW_IPS=trusted) as running, running.client() as client:
            for forged in range(10):
                assert sign_in(client, f"203.0.113.{forged}, 198.51.100.7{proxies}", "wrong") in (200, 429), trusted
            assert sign_in(client, f"198.51.100.7{proxies}", "analytical-engine") == 429, trusted
            assert sign_in(client, f"198.51.100.8{proxies}", "analytical-engine") == 302, trusted


def sign_in(client: httpx.Client, forwarded_for: str, password: str) -> int:
    page = client.get("/accounts/login/").text
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', page)
    form = {"username": "ada", "password": password, "csrfmiddlewaretoken": token}
    headers = {"X-Forwarded-For": forwarded_for, "Origin": "https://example.com"}
    return client.post("/accounts/login/", data=form, headers=headers).status_code


def test_links_lead_somewhere() -> None:
    for page in [*PAGES.values(), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_name_existing_files_and_settings() -> None:
    """Files and settings that the pages mention exist."""
    template = ROOT / "{{cookiecutter.project_slug}}"
    texts = "\n".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    for name in re.findall(r"`tests/(test_\w+\.py)`|`(test_\w+\.py)`", texts):
        files = [folder / "tests" / "".join(name) for folder in (ROOT, template)]
        assert any(file.exists() for file in files), name
    package = template / "{{cookiecutter.project_slug}}"
    settings = "".join((package / name).read_text(encoding="utf-8") for name in ("settings.py", "serving/conf.py"))
    for variable in set(re.findall(r"\b(?:DJANGO|ASGI)_[A-Z_]+\b", texts)) - {"DJANGO_SETTINGS_MODULE"}:
        assert variable in settings, variable


ROUTING_WITH_CONSUMER = """
import threading

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth.models import User
from django.urls import path


class Where(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        name = await sync_to_async(lambda: User.objects.count() or threading.current_thread().name)()
        await self.send_json({"thread": name})


websocket_urlpatterns = [path("ws/where/", Where.as_asgi())]
"""


def test_existing_projects(run_commands: RunCommands, environments: Callable[[str], Path], tmp_path: Path) -> None:
    """In a project of startproject: the core added, measured, with WebSockets, updated and removed."""
    add, servers, loads, update, remove = code_blocks("existing-projects.md", "sh")
    app, _, websockets = code_blocks("existing-projects.md", "python")
    [change] = code_blocks("existing-projects.md", "diff")
    old, new = [line[1:] for line in change.splitlines()]
    python, path = environments("5.2"), tmp_path / "mysite"
    path.mkdir()
    subprocess.run([python, "-m", "django", "startproject", "mysite", path], check=True)
    project = Project(path, {}, python, ready_path="/admin/login/")
    project.manage("migrate")
    asgi, serving = path / "mysite" / "asgi.py", path / "mysite" / "serving"

    run_commands(add, path)
    edit(asgi, old, new)
    append(path / "mysite" / "settings.py", app)
    assert "no issues" in project.manage("check").stdout
    for server, load in zip(servers.splitlines(), loads.splitlines(), strict=True):
        named_port = first_match(r"--port (\d+)", server)
        assert f"localhost:{named_port}/" in load
        port = free_port()
        with project.run_process(["env", *shlex.split(server.replace(named_port, str(port)))], port):
            if shutil.which("wrk"):
                run_commands(load.replace(named_port, str(port)).replace("--duration 10", "--duration 1"), path)

    (path / "mysite" / "routing.py").write_text(ROUTING_WITH_CONSUMER)
    asgi.write_text(websockets)
    port = free_port()
    with project.run_process(["uvicorn", "mysite.asgi:application", "--port", str(port)], port) as running:
        with connect(f"ws://127.0.0.1:{port}/ws/where/") as socket:
            socket.send("{}")
            assert socket.recv() == '{"thread": "asgi-background"}'
        assert "Traceback" not in running.output

    (serving / "handler.py").write_text("")
    run_commands(update, path)
    assert "def get_asgi_application" in (serving / "handler.py").read_text()
    run_commands(remove, path)
    assert not serving.exists()
