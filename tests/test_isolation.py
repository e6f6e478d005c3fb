"""Nothing of one request is ever visible to another: four programs that keep the current tenant in a thread or connection.

They use a setting of PostgreSQL, a role and row-level security, a schema (django-tenants) and a thread-local;
tests/isolation/ has their code.
"""

import asyncio
import json
import os
import random
import re
import secrets
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Unpack

import httpx
import pytest

from tests.template import (
    LISTENING_CONNECTIONS,
    PROBE_THREADS,
    ROOT,
    Answers,
    MakeProject,
    PostgresServer,
    Project,
    Server,
    also_in_test_all,
    connect,
    data_lines,
    first_match,
)

OWNERS = [str(number) for number in range(8)]
PROGRAMS = ["setting", "role", "schema", "local"]
# All calls of these belong to the request.
REQUEST_KINDS = ["sync", "async", "sync_stream", "async_stream", "mixed_stream"]
# Calls of these see what they set themselves, or nothing.
BACKGROUND_KINDS = ["event_stream", "event_stream_of_sync_view", "late", "websocket"]
REQUESTS = 1000
CONCURRENT_REQUESTS = 30
BACKGROUND_THREADS = 2

SETTINGS = """
DATABASES["default"]["ENGINE"] = "django_tenants.postgresql_backend"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
SHARED_APPS = ["django_tenants", "isolation", *INSTALLED_APPS]
TENANT_APPS = ["isolation.notes"]
INSTALLED_APPS = [*SHARED_APPS, *TENANT_APPS]
TENANT_MODEL, TENANT_DOMAIN_MODEL = "isolation.Client", "isolation.Domain"
TENANT_LIMIT_SET_CALLS = True
MIDDLEWARE.append("isolation.middleware.ProgramMiddleware")
ROLE_PREFIX = "{role_prefix}"
ASGI_BACKGROUND_THREADS = {background_threads}
"""

MAKE_TENANTS = """
from isolation.models import Client, Domain, RoleNote
from isolation.notes.models import Note
from django_tenants.utils import schema_context
for owner in {owners}:
    tenant = Client.objects.create(schema_name=f"t{{owner}}")
    Domain.objects.create(domain=f"t{{owner}}.example.com", tenant=tenant, is_primary=True)
    RoleNote.objects.create(owner=owner)
    with schema_context(tenant.schema_name):
        Note.objects.create(owner=owner)
"""

# The site's own role owns nothing and sees no row; as a member of each tenant's role it may use SET ROLE.
MAKE_ROLES = """
CREATE ROLE {prefix}site LOGIN NOINHERIT;
CREATE TABLE isolation_litter (id int);
GRANT ALL ON isolation_litter TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;
REVOKE ALL ON isolation_rolenote FROM PUBLIC;
ALTER TABLE isolation_rolenote ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON isolation_rolenote USING ('{prefix}' || owner = current_user);
"""
MAKE_ROLE_OF_OWNER = """
CREATE ROLE {prefix}{owner};
GRANT {prefix}{owner} TO {prefix}site;
GRANT SELECT ON isolation_rolenote TO {prefix}{owner};
GRANT USAGE ON SCHEMA t{owner} TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA t{owner} TO PUBLIC;
"""


@pytest.fixture
def make_isolation_project(
    make_project: MakeProject,
    postgresql: str,
    postgresql_server: PostgresServer,
    static_files: Callable[[Project], Path],
) -> Iterator[MakeProject]:
    """`make_isolation_project(**answers)`: a project with the app, a schema, a role and a row for each of OWNERS."""
    prefix = f"role_{secrets.token_hex(4)}_"
    database = first_match(r"/(test_\w+)", postgresql)

    def psql(statements: str) -> None:
        postgresql_server.psql(f"\\set ON_ERROR_STOP on\n\\c {database}\n{statements}")

    def make(**answers: Unpack[Answers]) -> Project:
        answers |= {"database": "postgresql", "channels": True}
        project = make_project(**answers)
        variables = {"ASGI_THREADS": str(PROBE_THREADS), "DJANGO_ALLOWED_HOSTS": ".example.com"}
        project.in_production(postgresql, **variables)
        shutil.copytree(static_files(project), project.path / "staticfiles")
        add_app(project, prefix)
        project.manage("makemigrations", "isolation", "notes")
        project.manage("migrate_schemas", "--shared")
        project.manage("shell", "--command", MAKE_TENANTS.format(owners=OWNERS))
        roles = [MAKE_ROLE_OF_OWNER.format(prefix=prefix, owner=owner) for owner in OWNERS]
        psql("".join([MAKE_ROLES.format(prefix=prefix), *roles]))
        return project.in_production(re.sub("//[^@]*@", f"//{prefix}site@", postgresql), **variables)

    yield make
    roles = ", ".join([f"{prefix}site", *(f"{prefix}{owner}" for owner in OWNERS)])
    psql(f"DROP OWNED BY {roles}; DROP ROLE {roles};")


def add_app(project: Project, prefix: str) -> None:
    shutil.copytree(ROOT / "tests" / "isolation", project.path / "isolation")
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write(SETTINGS.format(role_prefix=prefix, background_threads=BACKGROUND_THREADS))
    urls = project.path / "wiki" / "urls.py"
    urls.write_text(
        urls.read_text().replace('path("",', 'path("isolation/", include("isolation.urls")),\n    path("",')
    )
    routing = project.path / "wiki" / "routing.py"
    route = '    re_path("ws/isolation/", Isolation.as_asgi()),\n    re_path("", not_found)'
    routing.write_text(
        routing.read_text()
        .replace('    re_path("", not_found)', route)
        .replace("from django.urls", "from isolation.consumers import Isolation\nfrom django.urls")
    )


@pytest.mark.parametrize(
    ("server", "django_version"),
    [("uvicorn", "5.2"), ("granian", "6.1"), *also_in_test_all(("uvicorn", "6.1"), ("granian", "5.2"))],
)
def test_no_request_sees_data_of_another(
    server: str, django_version: str, make_isolation_project: MakeProject, connections: Callable[[], int]
) -> None:
    """Of 1,000 requests of all kinds in random order, 30 at a time, each sees its own data or none."""
    seed = int(os.environ.get("ISOLATION_SEED") or secrets.randbits(32))
    with make_isolation_project(server=server, django_version=django_version).run_server() as running:
        wrong, streams = asyncio.run(request_in_random_order(running, seed))
        with running.client() as client:
            running.wait_until(lambda: client.get("/isolation/count_closed/").json()["closed"] == len(streams))
            closed = client.get("/isolation/closed_streams/").json()["owners"]
        for number, (program, kind, owner) in streams.items():
            if closed[str(number)] != owner:
                wrong.setdefault(f"{program}, close() of {kind}", []).append((owner, closed[str(number)]))
        report = "".join(f"{name}: {len(seen)} wrong, such as {seen[:3]}\n" for name, seen in sorted(wrong.items()))
        assert not wrong, f"\n{report}Again with ISOLATION_SEED={seed}."
        assert connections() <= PROBE_THREADS + BACKGROUND_THREADS + LISTENING_CONNECTIONS
        assert "Traceback" not in running.output


async def request_in_random_order(
    running: Server, seed: int
) -> tuple[dict[str, list[Any]], dict[int, tuple[str, str, str]]]:
    """Return wrong results by program and kind, [(expected, seen)], and plain streams by number, (program, kind, owner)."""
    chance = random.Random(seed)
    kinds = [(program, kind) for program in PROGRAMS for kind in REQUEST_KINDS + BACKGROUND_KINDS]
    cases = [(*kinds[number % len(kinds)], chance.choice(OWNERS)) for number in range(REQUESTS)]
    chance.shuffle(cases)
    jobs = list(enumerate(cases))
    streams = {number: case for number, case in jobs if case[1].endswith("_stream") and case[1] in REQUEST_KINDS}
    wrong: dict[str, list[Any]] = {}

    async def request_sequentially(client: httpx.AsyncClient) -> None:
        while jobs:
            number, (program, kind, owner) = jobs.pop()
            seen = await request_owners(running, client, number, program, kind, owner)
            # A background call sees the owner only where it was set, in the second call. The first call may still
            # belong to the request.
            right = [[owner] * 3] if kind in REQUEST_KINDS else [[None, owner, None], [owner, owner, None]]
            if seen not in right:
                wrong.setdefault(f"{program}, {kind}", []).append((owner, seen))

    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        await asyncio.gather(*[request_sequentially(client) for _ in range(CONCURRENT_REQUESTS)])
    return wrong, streams


async def request_owners(
    running: Server, client: httpx.AsyncClient, number: int, program: str, kind: str, owner: str
) -> Any:
    """Return the owners that this request read, or the error."""
    if kind == "websocket":
        return await exchange_message(running, {"program": program, "owner": owner})
    headers = {"Host": f"t{owner}.example.com", "X-Forwarded-Proto": "https"}
    try:
        response = await client.get(f"/isolation/{program}/{owner}/{kind}/{number}/", headers=headers)
        if response.status_code == 202:
            response = await client.get(f"/isolation/late_result/{number}/", headers=headers)
        if response.status_code != 200:
            return [response.status_code]
        if "stream" in kind:
            return [json.loads(data) for data in data_lines(response.text)]
        return response.json()["owners"]
    except httpx.TransportError as error:
        return [repr(error)]


async def exchange_message(running: Server, message: dict[str, Any]) -> Any:
    url = f"ws://127.0.0.1:{running.port}/ws/isolation/"
    async with connect(url, host="www.example.com") as socket:
        await socket.send(json.dumps(message))
        return json.loads(await socket.recv())


CLEAN_STATE = {
    "in_transaction": False,
    "autocommit": True,
    "debug_cursor": False,
    "wrappers": 0,
    "attribute": False,
    "local": None,
    "language": "en-us",
    "time_zone": "UTC",
    "setting": "",
    "timeout": "0",
    "temporary_tables": 0,
    "channels": 0,
    "locks": 0,
    "statements": 0,
    "cursors": 0,
    "own_role": True,
    "rows": 0,
}


def test_background_calls_leave_nothing_behind(make_isolation_project: MakeProject) -> None:
    """Calls of event streams, of tasks that outlive their request and of WebSockets each get a clean connection."""
    with make_isolation_project().run_server() as running:
        asyncio.run(leave_and_inspect(running))


async def leave_and_inspect(running: Server) -> None:
    headers = {"Host": "www.example.com", "X-Forwarded-Proto": "https"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=20) as client:

        async def get(path: str) -> list[Any]:
            """Return the data of the events, if it is an event stream."""
            response = await client.get(f"/isolation/{path}/")
            assert response.status_code < 300, running.output
            return data_lines(response.text)

        async def inspect_in_stream() -> Any:
            [found] = await get("inspect_in_stream")
            return json.loads(found)

        async def leave_in_task(open_transaction: int) -> None:
            await get(f"litter_in_task/{open_transaction}")
            await get("late_result/0")

        async def inspect_all() -> list[Any]:
            streams: list[Coroutine[Any, Any, Any]] = [inspect_in_stream() for _ in range(5 * BACKGROUND_THREADS)]
            sockets = [exchange_message(running, {}) for _ in range(5 * BACKGROUND_THREADS)]
            return await asyncio.gather(*streams, *sockets)

        ways: dict[str, Callable[[int], Coroutine[Any, Any, object]]] = {
            "stream": lambda open_transaction: get(f"litter_in_stream/{open_transaction}"),
            "task": leave_in_task,
            "websocket": lambda open_transaction: exchange_message(running, {"open_transaction": open_transaction}),
        }
        for open_transaction in (0, 1):
            for name, leave in ways.items():
                for _ in range(2 * BACKGROUND_THREADS):
                    await leave(open_transaction)
                for found in await inspect_all():
                    assert found == CLEAN_STATE, f"left in a {name}"
            # Calls of the same stream share a context, and so the language, as in Django; nothing else stays.
            for found in await get(f"inspect_in_own_stream/{open_transaction}"):
                assert json.loads(found) == CLEAN_STATE | {"language": "de", "time_zone": "Asia/Kolkata"}
