"""The tutorial, followed from its first command to the deployed site."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.template import Docker, also_in_test_all, free_port, page_text
from tests.test_browser import chromium, playwright  # noqa: F401 (fixtures)
from tests.test_containers import wait_until
from tests.test_docs import RunCommands, run_commands  # noqa: F401 (a fixture)

DOMAIN = "wiki.example.com"
GIT_IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Ada"), ("EMAIL", "ada@example.com"))
}
PASSWORD = "analytical-engine"


@dataclass
class Step:
    """A block of code: commands, or the whole content of the file that the sentence before it names."""

    part: str
    language: str
    code: str
    file: str


def read_steps() -> list[Step]:
    steps = []
    for section in page_text("wiki.md").split("\n## ")[1:]:
        for paragraph, language, code in re.findall(
            r"((?:^[^\n]+\n)+)\n```(\w+)\n(.+?)^```$", section, re.MULTILINE | re.DOTALL
        ):
            [*_, file] = re.findall(r"`([\w/.]+/[\w.]+)`", paragraph) or [""]
            steps.append(Step(section.splitlines()[0], language, code, file))
    return steps


@pytest.mark.skipif(os.name == "nt", reason="its commands are for a POSIX shell")
@pytest.mark.parametrize("is_deployed", [False, *also_in_test_all(True)])
def test_tutorial(
    is_deployed: bool,
    run_commands: RunCommands,  # noqa: F811
    chromium: Browser,  # noqa: F811
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    steps = read_steps()
    assert len(steps) > 20
    project = tmp_path / "projects" / "wiki"
    project.parent.mkdir()
    [serve] = [step.code for step in steps if step.code.startswith("uv run uvicorn")]
    in_production = [step for step in steps if step.part in ("Try it as in production", "Deploy it")]
    generate, *others = [step for step in steps if step.code != serve and step not in in_production]
    run_commands(generate.code, project.parent, answers="Wiki\n")
    for step in others:
        if step.language == "sh":
            run_commands(step.code.removeprefix("cd wiki\n"), project)
        else:
            path = project / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.code, encoding="utf-8")
    with run_server(serve, project) as url, chromium.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/")
        page.get_by_role("link", name="Write a page").click()
        page.get_by_role("main").get_by_role("link", name="Sign up").click()
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Email").fill("ada@example.com")
        for label in ("Password:", "Password confirmation:"):
            page.get_by_label(label, exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign up").click()
        expect(page).to_have_url(f"{url}/new/")
        write_page_and_watch_it(page)
    if is_deployed:  # builds images, as tests/test_containers.py does
        deploy(in_production, project, run_commands, chromium, request)


@contextmanager
def run_server(command: str, folder: Path) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command.strip()} --port {port}"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://localhost:{port}"
    try:
        wait_until(lambda: httpx.get(f"{url}/livez").status_code == 200, lambda: "The server did not start.")
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def write_page_and_watch_it(page: Page) -> None:
    """Write a page of the wiki, and change it while another window shows it."""
    page.goto("/new/")
    page.get_by_label("Title").fill("Django")
    page.get_by_label("Text").fill("A web framework")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Django")).to_be_visible()
    other_window = page.context.new_page()
    with other_window.expect_response("**/events/"):
        other_window.goto(page.url)
    page.get_by_role("link", name="Edit this page").click()
    page.get_by_label("Text").fill("Changed")
    page.get_by_role("button", name="Save").click()
    expect(other_window.get_by_text("Changed")).to_be_visible()


def deploy(
    steps: list[Step], project: Path, run: RunCommands, browser: Browser, request: pytest.FixtureRequest
) -> None:
    """Deploy a clone of the project on this machine, for `localhost`."""
    up, down, commit, variables, start, update = [step.code for step in steps]
    assert down == "docker compose down\n"
    run(commit, project, **GIT_IDENTITY)
    server = project.parents[1] / "server"
    subprocess.run(["git", "clone", "-q", project, server], check=True)
    run(variables.replace(DOMAIN, "localhost"), server)
    docker: Docker = request.getfixturevalue("docker")
    port = free_port()
    environment = {"HTTP_PORT": str(free_port()), "HTTPS_PORT": str(port)}
    environment["COMPOSE_PROJECT_NAME"] = f"tutorial{uuid.uuid4().hex[:8]}"
    assert start.startswith(up)
    create_user = start.removeprefix(up)
    user = "-T -e DJANGO_SUPERUSER_PASSWORD=" + PASSWORD
    create_user = (
        create_user.replace("exec web", f"exec {user} web").strip() + " --noinput --username eve --email e@x.org"
    )
    logs: Callable[[], str] = lambda: docker("compose", "logs", cwd=server, env=os.environ | environment)
    try:
        run(up, server, **environment)
        url = f"https://localhost:{port}"
        wait_until(lambda: httpx.get(f"{url}/readyz", verify=False).status_code == 200, logs)
        run(create_user, server, **environment)
        with browser.new_context(base_url=url, ignore_https_errors=True) as context:
            page = context.new_page()
            page.goto("/accounts/login/")
            page.get_by_label("Username").fill("eve")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            expect(page).to_have_url(f"{url}/")
            write_page_and_watch_it(page)
        run(update, server, **environment)
    finally:
        run(f"{down.strip()} --volumes --rmi local", server, **environment)
