"""The transport of published messages between processes: a table that each process polls."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial

from asgiref.sync import sync_to_async
from django.db import connection, transaction

POLL_INTERVAL_SECONDS = 0.5
# Older messages are deleted. A process that falls further behind misses some.
MAX_STORED_MESSAGES = 1000

# Not a model, since tests and backups do not need messages that are used for half a second.
CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS serving_message (id INTEGER PRIMARY KEY AUTOINCREMENT, message TEXT)
"""
# Each of these functions makes `receive` in this process query immediately.
wakers: set[Callable[[], object]] = set()


def send(message: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CREATE_TABLE)
        cursor.execute("INSERT INTO serving_message (message) VALUES (%s)", [message])
        if cursor.lastrowid % 100 == 0:
            oldest = cursor.lastrowid - MAX_STORED_MESSAGES
            cursor.execute("DELETE FROM serving_message WHERE id <= %s", [oldest])
    transaction.on_commit(wake)


def wake() -> None:
    for waker in list(wakers):
        with suppress(RuntimeError):  # the event loop is closed
            waker()


async def receive() -> AsyncGenerator[str | None]:
    """Yield None at the start, and then each message that is committed.

    Yield None again if messages were deleted before this process read them.
    """
    written = asyncio.Event()
    waker = partial(asyncio.get_running_loop().call_soon_threadsafe, written.set)
    wakers.add(waker)
    try:
        last_id = await sync_to_async(get_last_id)()
        yield None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL_SECONDS):
                    await written.wait()
            written.clear()
            for id, message in await sync_to_async(get_messages)(last_id):
                if id > last_id + 1:
                    yield None
                yield message
                last_id = id
    finally:
        wakers.discard(waker)


def get_last_id() -> int:
    with connection.cursor() as cursor:
        cursor.execute(CREATE_TABLE)
        cursor.execute("SELECT coalesce(max(id), 0) FROM serving_message")
        last_id: int = cursor.fetchone()[0]
        return last_id


def get_messages(after: int) -> list[tuple[int, str]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, message FROM serving_message WHERE id > %s ORDER BY id", [after])
        messages: list[tuple[int, str]] = cursor.fetchall()
        return messages
