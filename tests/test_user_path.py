"""Two projects taken all the way as their users would, with nothing but uv."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.template import (
    IMAGE_PYTHON,
    SERVERS,
    Answers,
    MakeProject,
    Project,
    also_in_test_all,
    free_port,
    generate,
    run_commands,
)


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "My Board", "server": "granian", "database": "postgresql", "channels": True, "ci": "gitlab"},
        *also_in_test_all({"project_name": "wiki"}),  # which test_readme starts, too
    ],
    ids=["everything", "defaults"],
)
def test_with_uv(answers: Answers, tmp_path: Path, postgresql: str) -> None:
    project = generate(tmp_path, lock=True, **answers)
    project.python = Path(sys.executable)  # for the PATH that has uv
    inherited = {key: value for key, value in os.environ.items() if re.match("(UV|PIP|SSL)_", key)}
    project.variables |= inherited | {"DATABASE_URL": postgresql if "database" in answers else "sqlite:///db.sqlite3"}
    project.run("uv", "sync", "--locked")
    project.run("uv", "run", "manage.py", "migrate")
    assert " passed" in project.run("uv", "run", "pytest").stdout
    project.run("uv", "run", "ruff", "check")
    project.run("uv", "run", "ruff", "format", "--check")


def test_uv_takes_the_python_of_the_image(tmp_path: Path) -> None:
    """Or says that it wants that one: nothing else that is installed here."""
    project = generate(tmp_path, project_name="wiki")
    variables = {key: value for key, value in os.environ.items() if key != "UV_PYTHON"}
    found = subprocess.run(
        [Path(sys.executable).with_name("uv"), "python", "find", "--system", "--no-python-downloads"],
        cwd=project.path,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        assert f"No interpreter found for Python {IMAGE_PYTHON}" in found.stderr
    else:
        version = [found.stdout.strip(), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        assert subprocess.check_output(version, text=True).strip() == IMAGE_PYTHON


@pytest.mark.skipif(os.name == "nt", reason="the README's commands are for a POSIX shell")
def test_a_clone_starts_as_its_readme_says(make_project: MakeProject, tmp_path: Path) -> None:
    """Line by line: git leaves `.env` out."""
    project = clone(make_project(project_name="wiki"), tmp_path)
    readme = (project.path / "README.md").read_text()
    copy, migrate, start = re.findall("^    (.+)$", readme.split("Open <http")[0], re.MULTILINE)
    assert start.startswith("uv run uvicorn ")
    for line in (copy, migrate):
        project.run("sh", "-c", line.replace("uv run", str(project.python)))
    with project.run_dev_server() as running, running.client(https=False) as client:
        assert client.get("/").status_code == 200
    # What works for a reader of the code must not start in production.
    project.variables["DJANGO_DEBUG"] = "false"
    del project.environment
    assert "DJANGO_SECRET_KEY is not set" in project.manage("check", check=False).stderr


def clone(project: Project, folder: Path) -> Project:
    """Return a clone of the project, which has no `.env`."""
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "Begin"]):
        project.run("git", *command)
    project.run("git", "clone", "--quiet", str(project.path), str(folder / "clone" / project.slug))
    project.path = folder / "clone" / project.slug
    assert not (project.path / ".env").exists()
    return project


def test_runserver_creates_env_in_a_clone(make_project: MakeProject, tmp_path: Path) -> None:
    """No other command does, nor runserver if variables are set."""
    project = clone(make_project(project_name="wiki"), tmp_path)
    env, port = project.path / ".env", free_port()
    runserver = [str(project.python), "manage.py", "runserver", str(port)]
    for command in (["manage.py", "migrate"], ["-m", "wiki.settings"]):
        result = project.run(str(project.python), *command, check=False)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert "copy .env.example to .env, as `manage.py runserver` does" in result.stderr
    project.variables["DJANGO_DEBUG"] = "false"
    del project.environment
    assert "DJANGO_SECRET_KEY is not set" in project.run(*runserver, check=False).stderr
    project.in_production()
    with project.run_process([*runserver, "--noreload"], port):
        assert not env.exists()
    project.variables.clear()
    del project.environment
    if os.name == "posix":
        env.symlink_to(tmp_path / "elsewhere")
        assert "DJANGO_SECRET_KEY is not set" in project.run(*runserver, check=False).stderr
        assert not (tmp_path / "elsewhere").exists()
        env.unlink()

    example = (project.path / ".env.example").read_bytes()
    for number in range(2):
        with project.run_process(runserver, port) as running, running.client(https=False) as client:
            assert client.get("/").status_code == 200
            # Once, although the reloader starts a second process, and not over an existing file.
            assert running.output.count(".env was missing") == 1 - number
        assert env.read_bytes() == example
        example += b"# mine\n"
        env.write_bytes(example)
    if os.name == "posix":
        assert env.stat().st_mode & 0o777 == 0o600
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_tests_run_in_a_clone(make_project: MakeProject, tmp_path: Path) -> None:
    """They need neither `.env` nor variables, and create no files."""
    project = clone(make_project(project_name="wiki", starter="wiki"), tmp_path)
    assert " passed" in project.run(str(project.python), "-m", "pytest", "-q").stdout
    assert project.run("git", "status", "--porcelain", "--ignored").stdout.split() == ["!!", ".pytest_cache/"]


def test_course_project(make_project: MakeProject) -> None:
    """What a CS50W student types, as in any Django tutorial."""
    project = make_project(project_name="wiki")
    assert {"manage.py", "wiki"} <= {path.name for path in project.path.iterdir()}
    assert {"settings.py", "urls.py", "asgi.py", "wsgi.py"} <= {path.name for path in (project.path / "wiki").iterdir()}
    project.manage("migrate")
    project.manage("startapp", "flights")
    assert (project.path / "flights" / "views.py").exists()
    for command in (["manage.py", "runserver"], ["-m", "uvicorn", "wiki.asgi:application", "--port"]):
        port = free_port()
        with project.run_process([str(project.python), *command, str(port)], port) as running:
            with running.client(https=False) as client:
                home = client.get("/").text
            assert "<h1>wiki is up</h1>" in home
            assert f"<dd>{'manage.py' if 'manage.py' in command else 'uvicorn'}</dd>" in home


def test_dev_containers_start_the_project(tmp_path: Path) -> None:
    for server in SERVERS:
        project = generate(tmp_path, project_name=f"{server}_site", server=server)
        container = dev_container(project)
        # Of its schema, what a template may need.
        known = {"name", "image", "features", "containerEnv", "forwardPorts", "customizations"}
        assert set(container) <= known | {"onCreateCommand", "postStartCommand", "postAttachCommand"}
        readme = (project.path / "README.md").read_text()
        assert f"    {container['postAttachCommand']}\n" in readme
        assert f":{container['forwardPorts'][0]}>" in readme


def dev_container(project: Project) -> Any:
    return json.loads((project.path / ".devcontainer" / "devcontainer.json").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are for a POSIX shell")
def test_dev_container(tmp_path: Path) -> None:
    """What a container does from its making to the first page, done here."""
    project = generate(tmp_path, lock=True, project_name="wiki")
    container = dev_container(project)
    (project.path / ".env").unlink()
    for command in (container["onCreateCommand"], container["postStartCommand"]):
        run_commands(command, project.path, environment=os.environ | container["containerEnv"])
    project.python, project.variables = project.path / ".venv" / "bin" / "python", container["containerEnv"]
    port = free_port()
    command = [*container["postAttachCommand"].removeprefix("uv run ").split(), "--port", str(port)]
    with project.run_process(command, port) as running, running.client(https=False) as client:
        assert client.get("/").status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="the folder of a virtual environment's programs differs")
def test_without_uv(tmp_path: Path) -> None:
    """`pip install .` installs what is needed to run the project."""
    project = generate(tmp_path, project_name="wiki")
    subprocess.run([sys.executable, "-m", "venv", project.path / ".venv"], check=True)
    project.python = project.path / ".venv" / "bin" / "python"
    project.variables |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    project.run(str(project.python), "-m", "pip", "install", "--quiet", ".")
    project.manage("migrate")
    port = free_port()
    command = ["uvicorn", "wiki.asgi:application", "--port", str(port)]
    with project.run_process(command, port) as running, running.client(https=False) as client:
        assert client.get("/").status_code == 200
