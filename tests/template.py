"""Generate projects and run things in them, as a user would."""

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
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from _pytest.mark import ParameterSet
from allpairspy import AllPairs
from cookiecutter.main import cookiecutter
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text())
CHOICES = {key: value for key, value in QUESTIONS.items() if isinstance(value, list) and not key.startswith("_")}
SERVERS = CHOICES["server"]
IMAGE_PYTHON: str = QUESTIONS["__python"]
OLDEST_PYTHON: dict[str, str] = QUESTIONS["__oldest_python"]  # by Django version
# What the students of test_browser.py add: Markdown, cleaned, and the course's own library for it.
STUDENTS_LIBRARIES = ["markdown-it-py>=4,<5", "markdown2>=2.5,<3", "nh3>=0.3,<1"]
# What docs/ tells people to add.
DOCS_LIBRARIES = ["django-redis", "django-valkey", "fastapi", "psycopg[pool]", "twisted[http2,tls]"]
# Of which test_isolation.py asks whether tenants stay apart under the core.
TENANT_LIBRARIES = ["django-tenants"]
# What a page may load in production: test_security.py asks for it, test_browser.py lives with it.
POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)
THREADS = 3  # of the projects with the probe app
BACKGROUND_THREADS = 5  # the setting ASGI_BACKGROUND_THREADS
EXHAUSTIVE = pytest.mark.exhaustive
IN_CI = bool(os.environ.get("CI"))


def code_blocks(page, language):
    """The blocks of code in this language of the README or a page of docs/: [text]."""
    path = ROOT / "README.md" if page == "README.md" else ROOT / "docs" / page
    return re.findall(rf"^```{language}\n(.+?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_commands(commands, folder, answers="", environment=None):
    """Run a page's commands as one script; what they ask is answered with these lines, then with the default."""
    environment = environment or os.environ
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment | {"PATH": path},
        input=answers + "\n" * 20,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{commands}\n{result.stdout}\n{result.stderr}"


def combinations(*keys):
    """Every combination of the choices of these questions, as dicts of answers."""
    values = [[False, True] if key == "channels" else CHOICES[key] for key in keys]
    return [dict(zip(keys, answers, strict=True)) for answers in itertools.product(*values)]


def pairwise(*keys: str) -> list[dict[str, str | bool]]:
    """So many combinations of the choices of these questions that each pair of answers is met."""
    values = [[False, True] if key == "channels" else CHOICES[key] for key in keys]
    return [dict(zip(keys, answers, strict=True)) for answers in AllPairs(values)]


def on_each_server(starter: str) -> pytest.MarkDecorator:
    """Parametrize a test of this starter by `answers`: with all starters' tests, each pair of answers is met."""
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
    """Parameters of a test that are tried in `make test-all` only."""
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=EXHAUSTIVE) for value in values]


def on_servers(*servers: str) -> pytest.MarkDecorator:
    """Parametrize a test by these servers, and in `make test-all` by all."""
    others = [server for server in SERVERS if server not in servers]
    return pytest.mark.parametrize("server", [*servers, *also_in_test_all(*others)])


def label(answers):
    return "-".join("channels" if value is True else value for value in answers.values() if value)


def generate(folder, lock=False, **answers):
    """The project that these answers give, in a folder of its own inside `folder`.

    Without `lock` the hooks find no uv, as on a machine that has none: locking takes longer than all the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = os.environ["PATH"]
    try:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}" if lock else ""
        project = cookiecutter(str(ROOT), no_input=True, output_dir=str(folder), extra_context=answers)
    finally:
        os.environ["PATH"] = path
    return Project(Path(project), answers)


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    """Replace `old` in a file that was generated. It has to be there `count` times, or the test would test something else."""
    text = path.read_text(encoding="utf-8")
    found = text.count(old)
    if found != count:
        raise AssertionError(f"{old!r} is {found} times in {path.name}, not {count} times:\n{text}")
    path.write_text(text.replace(old, new), encoding="utf-8")


@cache
def find_python(request: str) -> Path | None:
    """The interpreter that uv finds for a version such as "3.13", or downloads, or None."""
    find = ["python", "find", "--system", "--no-project", "--no-python-downloads", request]
    found = uv(*find, check=False)
    if found.returncode and uv("python", "install", request, check=False).returncode == 0:
        found = uv(*find, check=False)
    return None if found.returncode else Path(found.stdout.strip())


@cache
def choose_python() -> Path:
    """The Python that projects are tested on: UV_PYTHON if it is set, else the image's, or the newest before that one."""
    chosen = os.environ.get("UV_PYTHON")
    requests = [chosen] if chosen else supported_pythons()
    for request in requests:
        if interpreter := find_python(request):
            return interpreter
    raise LookupError(f"There is no Python {' or '.join(requests)} to test projects on")


def supported_pythons() -> list[str]:
    """From the image's down to the oldest one."""
    oldest, newest = min(map(minor_version, OLDEST_PYTHON.values())), minor_version(IMAGE_PYTHON)
    return [f"3.{minor}" for minor in range(newest, oldest - 1, -1)]


def minor_version(version: str) -> int:
    return int(version.split(".")[1])


def make_environment(django_version: str, folder: Path, request: str | None = None) -> Path:
    """The interpreter of an environment that has what any generated project of this Django version needs.

    One for all, since an environment for each combination would take longer than all tests. It is made of what the
    projects themselves ask for (they are generated in `folder`), and kept in build/ until they ask for something else.
    Without `request`, its Python is the one of `choose_python`. Raises LookupError if there is no such Python.
    """
    base = find_python(request) if request else choose_python()
    if base is None:
        raise LookupError(f"There is no Python {request} to test Django {django_version} on")
    files = []
    for server in SERVERS:
        answers = {"server": server, "django_version": django_version, "database": "postgresql", "channels": True}
        answers["starter"] = "live"  # the one that needs a library more
        files.append(generate(folder / server, project_name="wiki", **answers).path / "pyproject.toml")
    libraries = [*STUDENTS_LIBRARIES, *DOCS_LIBRARIES, *TENANT_LIBRARIES]
    wanted = "".join([str(base), *(file.read_text() for file in files), *libraries])
    environment = ROOT / "build" / "environments" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    environment.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{environment}.lock"):
        if not (environment / "complete").exists():
            uv("venv", "--clear", "--python", str(base), str(environment))
            install = ["pip", "install", "--compile-bytecode", "--python", str(environment), *libraries]
            for file in files:
                install += ["--requirements", str(file), "--group", f"{file}:dev"]
            uv(*install)
            (environment / "complete").touch()
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def uv(*arguments, check=True):
    program = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    result = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(f"uv {' '.join(arguments)}\n{result.stderr}")
    return result


@dataclass
class Project:
    path: Path
    answers: dict
    python: Path | None = None  # of an environment with the project's dependencies
    variables: dict = field(default_factory=dict)

    @property
    def slug(self):
        return self.path.name

    @cached_property
    def environment(self):
        environment = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "default",
            "DJANGO_SETTINGS_MODULE": f"{self.slug}.settings",
        }
        keep = ("HOME", "SYSTEMROOT", "TMPDIR", "SSL_CERT_FILE")
        return {key: os.environ[key] for key in keep if key in os.environ} | environment | self.variables

    def in_production(self, database_url=None, **variables):
        """The variables that the README of the project asks for in production."""
        (self.path / ".env").unlink(missing_ok=True)
        self.variables |= {
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(50),
            "DJANGO_ALLOWED_HOSTS": "example.com",
            "DATABASE_URL": database_url or f"sqlite:///{self.path / 'db.sqlite3'}",
            **variables,
        }
        self.__dict__.pop("environment", None)
        return self

    def run(self, *command, check=True, timeout=300):
        """Run a command in the project; its output is in the error if it fails."""
        result = subprocess.run(
            command, check=False, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if check and result.returncode:
            raise AssertionError(f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def manage(self, *arguments, **options):
        return self.run(str(self.python), "manage.py", *arguments, **options)

    def procfile(self):
        """The lines of the Procfile: {process type: command}."""
        return dict(
            line.split(": ", 1) for line in (self.path / "Procfile").read_text(encoding="utf-8").splitlines() if line
        )

    @contextmanager
    def run_server(self, *processes, port=None, **variables):
        """The project, started by its Procfile lines (that of `web` alone if none is named) through honcho."""
        port = port or free_port()
        (self.path / "honcho.env").write_text("")
        command = [sys.executable, "-m", "honcho", "--no-colour", "--env", "honcho.env", "start", "--port", str(port)]
        with self.run_process(command + ["--no-prefix", *(processes or ["web"])], port, **variables) as server:
            yield server

    @contextmanager
    def run_dev_server(self):
        """The project, started by the command that its README gives for development."""
        readme = (self.path / "README.md").read_text(encoding="utf-8")
        command = re.search(r"^    uv run (.+)$", readme.split("manage.py migrate")[1], re.MULTILINE)[1]
        port = free_port()
        command = command.replace("manage.py", f"{self.python} manage.py").split()
        options = {"daphne": [str(port)], "hypercorn": ["--bind", f"127.0.0.1:{port}"]}
        with self.run_process(command + options.get(self.answers.get("server"), ["--port", str(port)]), port) as server:
            yield server

    @contextmanager
    def run_process(self, command, port, **variables):
        log = self.path.parent / f"{self.slug}-{port}.log"  # outside of what a server watches for changes
        # Windows would look for it in the PATH of the tests, not in that of the project.
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
            server.wait_until_ready()
            yield server
        finally:
            server.kill()


@dataclass
class Server:
    process: subprocess.Popen
    port: int
    log: Path
    name: str = ""
    tls_port: int = 0

    @property
    def output(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, https=True, **options):
        """An HTTP client; with `https` it asks as the proxy in front of a production site would."""
        if https:
            options |= {"base_url": "https://example.com", "transport": Proxy(self.url)}
        return httpx.Client(**{"base_url": self.url, "timeout": 20} | options)

    def wait_until_ready(self):
        self.wait_until(lambda: httpx.get(f"{self.url}/livez", timeout=5).status_code == 200)

    def wait_until(self, condition, seconds=30):
        """Until the condition holds, while nothing may answer yet. The server's output is in the error."""
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
        raise AssertionError(f"Not within {seconds} s:\n{self.output}")

    def stop(self, seconds=15):
        """Send SIGTERM; return the exit status that honcho saw. Raises TimeoutExpired after `seconds`."""
        self.process.terminate()
        self.process.wait(seconds)
        match = re.search(r"web\.1 stopped \(rc=(-?\d+)\)", self.output)
        return int(match[1]) if match else self.process.returncode

    def kill(self):
        """End what is left, whatever state it is in: honcho gives each process a group of its own."""
        if self.process.poll() is None:
            if os.name == "nt":  # where a process that ends leaves its children behind
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(self.process.pid)], check=False)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Proxy(httpx.HTTPTransport):
    """Takes requests for any https:// URL to a server's own http:// one, as a reverse proxy does."""

    def __init__(self, url):
        super().__init__()
        self.url = httpx.URL(url)

    def handle_request(self, request):
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
    url: str, *, host: str = "example.com", origin: str | None = None, headers: dict[str, str] | None = None, **options
) -> websockets.connect:
    """Open a WebSocket at a server's own ws:// URL, as the reverse proxy of a production site does for its page."""
    server = urlsplit(url)
    return websockets.connect(
        server._replace(netloc=host).geturl(),
        host=server.hostname,
        port=server.port,
        origin=origin or f"https://{host}",
        additional_headers={"X-Forwarded-Proto": "https", **(headers or {})},
        **options,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
