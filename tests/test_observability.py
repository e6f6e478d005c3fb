"""The commands of docs/how-to/observability.md, in a generated project, with a server in place of the agent."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.template import MakeProbeProject, Project, code_blocks, edit, uv

Trace = list[dict[str, Any]]  # of spans


class Agent(ThreadingHTTPServer):
    """Takes traces, lists of spans, as Datadog's agent does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), AgentHandler)
        self.traces: list[Trace] = []


class AgentHandler(BaseHTTPRequestHandler):
    server: Agent

    def do_GET(self) -> None:
        self.send_json({"endpoints": ["/v0.4/traces"]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v0.4/traces":
            self.server.traces += msgpack.unpackb(body)
        self.send_json({"rate_by_service": {}})

    do_PUT = do_POST

    def send_json(self, data: dict[str, object]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def install(tmp_path: Path) -> Callable[[Project, str], None]:
    """`install(project, command)` puts what `uv add` names beside the shared environment: ddtrace has a plugin for pytest."""

    def add(project: Project, command: str) -> None:
        folder = tmp_path / "libraries"
        libraries = command.removeprefix("uv add ").split()
        uv("pip", "install", "--python", str(project.python), "--target", str(folder), *libraries)
        project.variables["PATH"] = os.pathsep.join(
            [str(folder / "bin"), str(project.python.parent), os.environ["PATH"]]
        )
        project.variables["PYTHONPATH"] = str(folder)

    return add


@pytest.mark.skipif(os.name == "nt", reason="the Procfile's lines are for a POSIX shell")
def test_ddtrace(make_probe_project: MakeProbeProject, agent: Agent, install: Callable[[Project, str], None]) -> None:
    project = make_probe_project()
    [command], [line], [before_channels] = (
        code_blocks("observability.md", language) for language in ("sh", "text", "python")
    )
    install(project, command)
    edit(project.path / "Procfile", "exec uvicorn", line.strip())
    edit(project.path / "wiki" / "asgi.py", "from channels.routing", f"{before_channels}from channels.routing")
    project.variables |= {
        "DD_SERVICE": "wiki",
        "DD_TRACE_AGENT_URL": f"http://127.0.0.1:{agent.server_port}",
        "DD_TRACE_API_VERSION": "v0.4",
        # Nothing but traces.
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_CRASHTRACKING_ENABLED": "false",
        # ddtrace is large, and is not compiled before.
        "PYTHONDONTWRITEBYTECODE": "",
        "DD_TRACE_WRITER_INTERVAL_SECONDS": "0.2",
    }
    project.__dict__.pop("environment", None)
    paths = ["probe/count/", "probe/async_count/"] * 50 + ["probe/broken/", "probe/async_broken/"]
    with project.run_server() as running, running.client() as client:
        with ThreadPoolExecutor(12) as executor:
            answers = list(executor.map(lambda path: (path, client.get(f"/{path}").status_code), paths))
        expected = Counter((f"GET {path}", str(status), f"https://example.com/{path}") for path, status in answers)
        running.wait_until(lambda: len(probe_traces(agent)) >= len(paths))
        assert "failed to enable" not in running.output
    assert {status for path, status in answers if "count" in path} == {200}
    assert {status for path, status in answers if "broken" in path} == {500}
    traces = probe_traces(agent)
    assert len(traces) == len(paths)
    requests = [[span for span in trace if span["name"] in ("django.request", "asgi.request")] for trace in traces]
    assert {tuple(span["name"] for span in spans) for spans in requests} == {("django.request",)}
    assert Counter(describe(span) for [span] in requests) == expected
    counts = [trace for trace, [request] in zip(traces, requests, strict=True) if "count" in request["resource"]]
    assert all(any("postgres" in span["name"] for span in trace) for trace in counts)
    # Nothing is a trace of its own.
    assert {trace[0]["name"] for trace in agent.traces if trace not in traces} <= {"django.request"}


def probe_traces(agent: Agent) -> list[Trace]:
    """Return all traces but those of health checks."""
    return [trace for trace in agent.traces if "/livez" not in trace[0]["meta"].get("http.url", "")]


def describe(span: dict[str, Any]) -> tuple[str, str, str]:
    return span["resource"], span["meta"]["http.status_code"], span["meta"]["http.url"]
