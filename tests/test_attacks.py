"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from tests.template import CHOICES, Project, generate
from tests.test_cookiecutter import posix
from tests.test_hooks import cookiecutter

# Row 1: h2c past a proxy.


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


def generate_again(folder: Path, *answers: str) -> tuple[int, str]:
    """The exit status of `cookiecutter --overwrite-if-exists` for the project `wiki`, and what a person sees."""
    status, lines = cookiecutter(folder, "project_name=wiki", *answers, options=["--overwrite-if-exists"])
    return status, "\n".join(lines)


def test_folders_of_the_owner_stay(tmp_path: Path) -> None:
    """Also those that are called as the template calls its own, and one for each question."""
    assert generate_again(tmp_path)[0] == 0
    mine = [tmp_path / "wiki" / name / "mine.py" for name in ("starters", "servers", "pipelines", "wiki", "tests")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    status, said = generate_again(tmp_path, "starter=chat", "server=daphne", "ci=gitlab")
    assert status == 0, said
    assert [file.read_text() for file in mine] == ["mine"] * len(mine)
    assert not (tmp_path / "wiki" / "_parts").exists()


@pytest.mark.parametrize("slug", ["starters", "servers", "pipelines"])
def test_a_project_may_have_the_name_of_a_folder_of_the_template(slug: str, tmp_path: Path) -> None:
    status, lines = cookiecutter(tmp_path, f"project_slug={slug}")
    assert status == 0, lines
    assert (tmp_path / slug / slug / "settings.py").exists()


@posix
@pytest.mark.parametrize("name", ["Procfile", "wiki/settings.py", "chat", "chat/views.py", ".env", "uv.lock", "_parts"])
def test_nothing_is_written_through_a_symbolic_link(name: str, tmp_path: Path) -> None:
    link, elsewhere = tmp_path / "wiki" / name, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    for make in (lambda: None, elsewhere.touch):
        make()
        status, said = generate_again(tmp_path, "starter=chat")
        assert status == 1
        assert f"{name} is a symbolic link" in said
        assert not elsewhere.exists() or elsewhere.read_text() == ""
        assert set((tmp_path / "wiki").rglob("*")) <= {link, *link.parents}


@posix
def test_an_env_file_that_is_there_becomes_private(tmp_path: Path) -> None:
    env = tmp_path / "wiki" / ".env"
    env.parent.mkdir()
    env.write_text("DJANGO_SECRET_KEY=mine\n")
    env.chmod(0o644)
    status, said = generate_again(tmp_path)
    assert status == 0, said
    assert (env.read_text(), env.stat().st_mode & 0o777) == ("DJANGO_SECRET_KEY=mine\n", 0o600)
    assert ".env could be read by other users of this machine" in said
    assert ".env could be read" not in generate_again(tmp_path)[1]


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


def test_nobody_elses_codespace_is_trusted_in_production(project: Callable[..., Project]) -> None:
    """With the variables of `.env`, as compose has them, but for debug mode."""
    made = project()
    made.environment["DJANGO_DEBUG"] = "false"
    made.manage("migrate")
    made.manage("collectstatic", "--no-input")
    strangers = {"Host": "fuzzy-8000.app.github.dev", "X-Forwarded-Proto": "https"}
    with made.served() as running, running.client() as client:
        assert httpx.get(running.url, headers=strangers).status_code == 400
        page = client.get("/accounts/login/", headers={"Host": "localhost"})
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
        headers = {"Host": "localhost", "Origin": "https://fuzzy-8000.app.github.dev"}
        form = {"username": "a", "password": "b", "csrfmiddlewaretoken": token}
        assert client.post("/accounts/login/", data=form, headers=headers).status_code == 403
        assert client.post("/accounts/login/", data=form, headers=headers | {"Origin": "https://localhost"}).is_success


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.


# Row 15: what a container may do.


@pytest.mark.parametrize("starter", CHOICES["starter"])
def test_containers_may_do_nothing_that_they_need_not(starter: str, tmp_path: Path) -> None:
    made = generate(tmp_path, project_name="wiki", starter=starter, database="postgresql", channels=True)
    services = yaml.safe_load((made.path / "compose.yaml").read_text())["services"]
    assert {"proxy", "migrate", "web", "postgres", "redis"} <= set(services)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert (service["mem_limit"], service["pids_limit"]) == ("1g", 500), name
    assert {name for name, service in services.items() if "cap_add" in service} == {"proxy", "postgres"}
    published = [port for service in services.values() for port in service.get("ports", []) if "HTTP" not in port]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_link_that_resets_a_password_is_never_in_the_log_of_production(
    production: Callable[..., Project],
) -> None:
    made = production()
    command = "from accounts.models import User; User.objects.filter(username='ada').update(email='ada@example.com')"
    made.manage("shell", "--command", command)
    with made.served() as running, running.client(timeout=60) as client:
        page = client.get("/accounts/password_reset/")
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
        form = {"email": "ada@example.com", "csrfmiddlewaretoken": token}
        client.post("/accounts/password_reset/", data=form, headers={"Referer": "https://example.com/"})
        running.wait_until(lambda: "Connection refused" in running.output)  # there is no mail server
        assert "/accounts/reset/" not in running.output


# Row 16: half-open connections.
