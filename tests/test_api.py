"""The `api` starter on each server; its schema against a running server; its export in constant memory."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from tests.template import (
    Answers,
    MakeProject,
    Project,
    Server,
    also_in_test_all,
    edit,
    first_match,
    free_port,
    on_each_server,
)
from tests.test_attacks import peak_memory

PROBLEM = "application/problem+json"
UPSTREAM_SECONDS = 0.7
EXPORTED_ROWS = 20_000
INSERT_NOTES = f"""
from django.db import connection
connection.cursor().execute('''
    INSERT INTO api_note (owner_id, title, text, pinned, created, changed)
    SELECT users.id, 'Note', 'Some text that is neither short nor long, as notes are.', false, now(), now()
    FROM accounts_user AS users, generate_series(1, {EXPORTED_ROWS}) WHERE users.username = 'ada'
''')
"""


class SlowUpstream(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(UPSTREAM_SECONDS)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.path).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowUpstream) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def sign_in(client: httpx.Client) -> str:
    """Sign ada in, and return a token that she creates on the page."""
    client.headers["Origin"] = "https://example.com"
    client.get("/accounts/login/")
    form = {"username": "ada", "password": "analytical-engine", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    assert client.post("/accounts/login/", data=form).status_code == 302
    form = {"name": "laptop", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    token = first_match(r'id="secret">([\w-]{43})<', client.post("/tokens/", data=form).text)
    assert token not in client.get("/tokens/").text
    return token


def create_token(project: Project, username: str) -> str:
    return project.manage("create_token", username).stdout.strip()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@on_each_server("api")
def test_api(answers: Answers, make_production_project: MakeProject, upstream: str) -> None:
    project = make_production_project(**answers)
    project.manage("shell", "--command", "from accounts.models import User; User.objects.create_user('bob')")
    urls = [f"{upstream}/{number}" for number in range(3)] + ["http://127.0.0.1:1/"]
    with project.run_server(API_UPSTREAMS=",".join(urls), API_RATE_LIMIT="40/h") as running, ExitStack() as stack:
        browser, ada, bob, nobody = (stack.enter_context(running.client()) for _ in range(4))
        ada.headers.update(bearer(sign_in(browser)))
        bob.headers.update(bearer(create_token(project, "bob")))

        note = ada.post("/api/notes", json={"title": "Hello ☃"})
        assert note.status_code == 201
        path = note.headers["location"]
        assert ada.get(path).json() == note.json() == browser.get(path).json()
        assert ada.put(path, json={"title": "Bye", "pinned": True}).json()["title"] == "Bye"
        assert ada.get("/api/notes?search=bye&pinned=true&order=title&limit=1").json()["count"] == 1
        [line] = ada.get("/api/notes/export").text.splitlines()
        assert json.loads(line)["title"] == "Bye"

        assert nobody.get(path).status_code == 401
        assert ada.get(path, headers=bearer("wrong")).status_code == 401
        assert browser.get(path, headers=bearer("wrong")).status_code == 401
        others = [bob.get(path), bob.put(path, json={"title": "Mine"}), bob.delete(path), bob.get("/api/nothing")]
        others.append(bob.patch(path))
        assert [each.status_code for each in others] == [404] * 4 + [405]
        assert {each.headers["content-type"] for each in others} == {PROBLEM}
        assert bob.get("/api/notes").json()["items"] == []
        assert bob.get("/api/notes/export").text == ""
        check_csrf(browser)

        start = time.monotonic()
        answers_of_all = ada.get("/api/upstreams").json()
        assert time.monotonic() - start < 2 * UPSTREAM_SECONDS
        assert [each["data"] for each in answers_of_all] == ["/0", "/1", "/2", None]
        assert [each["error"] for each in answers_of_all] == ["", "", "", "ConnectError"]

        page = nobody.get("/api/docs").text
        files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert len(files) >= 5
        assert [nobody.get(file).status_code for file in files] == [200] * len(files)

        statuses = [bob.get("/api/notes").status_code for _ in range(40)]
        assert statuses == [200] * 35 + [429] * 5  # five were sent above; the API knows no such path or method
        assert bob.get("/api/notes").headers["content-type"] == PROBLEM
        assert ada.delete(path).status_code == 204
        assert ada.get(path).status_code == 404
        for client in (browser, ada, bob, nobody):
            client.close()
        assert running.stop(seconds=15) in (0, -15), running.output
        assert "Traceback" not in running.output


def check_csrf(browser: httpx.Client) -> None:
    """A session is not enough to change anything: other sites' pages have it, too."""
    page = browser.get("/api/docs").text
    token = first_match(r'data-csrf-token="(\w+)"', page)
    evil = {"X-CSRFToken": token, "Origin": "https://evil.example"}
    form = {"title": "Hello", "csrfmiddlewaretoken": "wrong"}
    refused = [
        browser.post("/api/notes", json={"title": "Hello"}),
        browser.post("/api/notes", data=form),
        browser.post("/api/notes", json={"title": "Hello"}, headers=evil),
    ]
    assert [each.status_code for each in refused] == [403] * 3
    assert {each.headers["content-type"] for each in refused} == {PROBLEM}
    assert browser.post("/api/notes", json={"title": "Hello"}, headers={"X-CSRFToken": token}).status_code == 201


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
@pytest.mark.parametrize("ci", ["github", *also_in_test_all("gitlab")])
@pytest.mark.parametrize("database", ["postgresql", *also_in_test_all("sqlite")])
def test_schema(ci: str, database: str, make_project: MakeProject, postgresql: str, tmp_path: Path) -> None:
    """The step of the pipeline: Schemathesis finds nothing, and it finds an operation that breaks its schema."""
    project = make_project(starter="api", ci=ci, database=database, django_version="6.1")
    (project.path / ".env").unlink()
    found = run_schema_step(project, ci, database, postgresql, tmp_path)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-5000:]
    assert "7 selected / 7 total" in found.stdout
    if (ci, database) == ("github", "postgresql"):
        edit(project.path / "api" / "notes.py", "offset: int = Field(0, ge=0, le=1_000_000)", "offset: int = 0")
        project.manage("flush", "--no-input")
        found = run_schema_step(project, ci, database, postgresql, tmp_path)
        assert found.returncode == 1
        assert "Server error" in found.stdout


def run_schema_step(
    project: Project, ci: str, database: str, postgresql: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    # What `uv run` and `uvx` would start is installed already.
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    schemathesis = Path(sys.executable).with_name("schemathesis")
    for name, script in {
        "uv": f'shift; exec {project.python} "$@"',
        "uvx": f'shift 3; exec {schemathesis} "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    if ci == "github":
        job = yaml.safe_load((project.path / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
        variables = job["env"]
        [command] = [step["run"] for step in job["steps"] if "schemathesis" in step.get("run", "")]
    else:
        pipeline = yaml.safe_load((project.path / ".gitlab-ci.yml").read_text())
        variables = pipeline[".python"]["variables"]
        [command] = [command for command in pipeline["test"]["script"] if "schemathesis" in command]
    project.variables |= variables
    if database == "postgresql":
        project.variables["DATABASE_URL"] = postgresql
    project.__dict__.pop("environment", None)
    command = command.replace("8000", str(free_port())).replace("--max-examples 50", "--max-examples 10")
    environment = project.environment | {"PATH": f"{tools}{os.pathsep}{project.environment['PATH']}"}
    # A pipeline's container ends what a step has left running.
    command = f"trap 'kill %1' EXIT\n{command}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        check=False,
        cwd=project.path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("server", ["uvicorn", *also_in_test_all("daphne", "hypercorn", "gunicorn", "granian")])
def test_export_is_constant(server: str, make_production_project: MakeProject, connections: Callable[[], int]) -> None:
    """A large export takes no memory, and exports that nobody reads hold no thread and no database connection."""
    project = make_production_project(starter="api", server=server, database="postgresql")
    project.manage("shell", "--command", INSERT_NOTES)
    token = create_token(project, "ada")
    with project.run_server(ASGI_THREADS="1") as running, running.client(headers=bearer(token)) as client:
        client.get("/api/notes")
        assert export_rows(client) == EXPORTED_ROWS
        with peak_memory(running.process.pid) as peak, ThreadPoolExecutor() as pool:
            assert list(pool.map(export_rows, [client] * 3)) == [EXPORTED_ROWS] * 3
        assert peak.bytes < 10_000_000
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(closing(start_export(running, token)))
            assert connections() <= 1 + 5  # of the one thread, and of background threads, which all exports share
            assert client.get("/api/notes?limit=1").json()["count"] == EXPORTED_ROWS


def export_rows(client: httpx.Client) -> int:
    with client.stream("GET", "/api/notes/export") as response:
        return sum(chunk.count(b"\n") for chunk in response.iter_raw())


def start_export(running: Server, token: str) -> socket.socket:
    """Ask for the export, and read no more than its beginning."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel would take most of it
    connection.connect(("127.0.0.1", running.port))
    connection.sendall(
        f"GET /api/notes/export HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 200")
    return connection
