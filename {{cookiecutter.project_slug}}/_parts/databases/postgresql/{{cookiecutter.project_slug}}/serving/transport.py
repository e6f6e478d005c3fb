"""The transport of published messages between processes: PostgreSQL's NOTIFY and LISTEN."""

from collections.abc import AsyncGenerator

from django.db import DEFAULT_DB_ALIAS, connection, connections
from psycopg import AsyncConnection

# The PostgreSQL channel of all messages, so that one LISTEN is enough.
CHANNEL = "pubsub"
# These values detect a network outage within half a minute. Times are in seconds, except for the
# last one, which is in milliseconds.
NETWORK_TIMEOUTS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def send(message: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, message])


async def receive() -> AsyncGenerator[str | None]:
    """Yield None when listening has started, and then each message that is committed."""
    parameters = connections.create_connection(DEFAULT_DB_ALIAS).get_connection_params()
    parameters |= NETWORK_TIMEOUTS
    for name in ("context", "cursor_factory"):  # only for Django's own connections
        del parameters[name]
    listener = await AsyncConnection.connect(**parameters, autocommit=True)
    try:
        await listener.execute(f"LISTEN {CHANNEL}")
        yield None
        async for notification in listener.notifies():
            yield notification.payload
    finally:  # not `async with`, which waits: a second cancellation would leave it open
        await listener.close()
