"""Leave all kinds of state in a thread and its connection, and look for it."""

import secrets
import threading

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone, translation

from .programs import local


def leave(open_transaction: int) -> str:
    """Leave state behind; with an open transaction as well, the connection may be closed."""
    name = f"litter_{secrets.token_hex(4)}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant', 'litter', false)")
        cursor.execute("SET statement_timeout = '54321ms'")
        cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS litter (id int)")
        cursor.execute("LISTEN litter")
        cursor.execute("SELECT pg_advisory_lock(pg_backend_pid())")
        cursor.execute(f"PREPARE {name} AS SELECT 1")
        cursor.execute(f"DECLARE {name} CURSOR WITH HOLD FOR SELECT 1")
        cursor.execute(f"SET ROLE {settings.ROLE_PREFIX}0")
    connection.force_debug_cursor = True
    connection.execute_wrappers.append(lambda execute, *args: execute(*args))
    setattr(connection, "litter", True)  # noqa: B010 (a connection's type has no such attribute)
    local.owner = "litter"
    translation.activate("de")
    timezone.activate("Asia/Kolkata")
    if open_transaction:
        transaction.atomic().__enter__()
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO isolation_litter VALUES (1)")
    return threading.current_thread().name


QUERY = """
    SELECT coalesce(current_setting('app.tenant', true), ''),
        current_setting('statement_timeout'),
        (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
        (SELECT count(*) FROM pg_listening_channels()),
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
        (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'litter%'),
        (SELECT count(*) FROM pg_cursors WHERE name LIKE 'litter%'),
        current_user = session_user,
        (SELECT count(*) FROM isolation_litter)
"""
NAMES = ["setting", "timeout", "temporary_tables", "channels", "locks", "statements", "cursors", "own_role", "rows"]


def inspect() -> dict[str, object]:
    """Return what this call finds; see CLEAN_STATE in test_isolation.py."""
    found = {
        "in_transaction": connection.in_atomic_block,
        "autocommit": connection.get_autocommit(),
        "debug_cursor": connection.force_debug_cursor,
        "wrappers": len(connection.execute_wrappers),
        "attribute": hasattr(connection, "litter"),
        "local": getattr(local, "owner", None),
        "language": translation.get_language(),
        "time_zone": timezone.get_current_timezone_name(),
    }
    with connection.cursor() as cursor:
        cursor.execute(QUERY)
        return found | dict(zip(NAMES, cursor.fetchone(), strict=True))
