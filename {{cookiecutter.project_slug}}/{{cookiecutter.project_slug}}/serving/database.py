"""Persistent database connections for the threads of threads.py, cleaned between requests."""

import selectors
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from time import monotonic
from typing import Any, NamedTuple

# Not in Django's documentation: `connections.settings`, `connections.create_connection`, and the
# attributes `in_atomic_block`, `execute_wrappers`, `health_check_done`, `close_at`,
# `isolation_level` and `get_new_connection` of a connection.
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, reset_queries
from django.utils.functional import cached_property

from .conf import get_setting

# Creating an epoll selector, the default on Linux, takes four times as long as a poll selector.
# Windows has neither.
SELECTOR_CLASS: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)
# Any, since the stubs lack the attributes above.
DatabaseWrapper = Any


@contextmanager
def persistent_connections() -> Iterator[None]:
    """Keep the connections of all threads for ASGI_CONN_MAX_AGE, inside the `with` block.

    At the start and the end of each request, Django's own receivers manage the connections of only
    one thread. They are disconnected, and this module does their work in the thread that has the
    connections.
    """
    # If a database uses Django's connection pool, the pool keeps its connections.
    databases = [each for each in connections.settings.values() if not each["OPTIONS"].get("pool")]
    max_ages = [each["CONN_MAX_AGE"] for each in databases]
    disconnected = [
        (signal, receiver)
        for signal in (request_started, request_finished)
        for receiver in (reset_queries, close_old_connections)
        if signal.disconnect(receiver)
    ]
    for database in databases:
        database["CONN_MAX_AGE"] = get_setting("ASGI_CONN_MAX_AGE")
    try:
        yield
    finally:
        for database, max_age in zip(databases, max_ages, strict=True):
            database["CONN_MAX_AGE"] = max_age
        for signal, receiver in disconnected:
            signal.connect(receiver)


def prepare_connections() -> None:
    """Prepare the thread's connections for a request, as Django does at `request_started`."""
    reset_queries()
    close_old_connections()
    connection: DatabaseWrapper
    for connection in connections.all(initialized_only=True):
        # Django would check the connection with a query in each request. The query is needed only
        # if PostgreSQL sent unexpected data.
        if connection.vendor == "postgresql" and connection.connection is not None:
            connection.health_check_done = not has_input(connection.connection)


def reset_connections() -> None:
    """Close the current thread's connections whose state the request changed; keep the others."""
    used = connections.all(initialized_only=True)
    for connection in used:
        # Connections return to the thread only after their check. If a check raises an exception,
        # the thread loses the remaining ones, and the next request opens new ones.
        del connections[connection.alias]
    for connection in used:
        if in_transaction(connection) or has_leftovers(connection):
            connection.close()
        else:
            connection.force_debug_cursor = False
            connections[connection.alias] = connection
    close_old_connections()


def in_transaction(connection: DatabaseWrapper) -> bool:
    """Return whether a transaction is open, even one that was started with raw SQL."""
    driver_connection = connection.connection
    if connection.in_atomic_block or driver_connection is None:
        return bool(connection.in_atomic_block)
    if connection.vendor == "postgresql":
        return bool(driver_connection.info.transaction_status)
    return bool(getattr(driver_connection, "in_transaction", False))


def has_leftovers(connection: DatabaseWrapper) -> bool:
    """Return whether the connection has wrappers, or attributes that a new connection lacks."""
    added = vars(connection).keys() - attributes_of_new_connection(connection.alias)
    return bool(connection.execute_wrappers) or not all(
        isinstance(getattr(type(connection), name, None), cached_property) for name in added
    )


@lru_cache
def attributes_of_new_connection(alias: str) -> frozenset[str]:
    connection = connections.create_connection(alias)
    # Backends set some attributes only when they prepare to connect. PostgreSQL's backend sets
    # `isolation_level` only when it connects.
    connection.get_connection_params()
    return frozenset(vars(connection)) | {"isolation_level"}


def has_input(driver_connection: Any) -> bool:
    """Return whether PostgreSQL sent unexpected data, usually because it closed the connection."""
    with SELECTOR_CLASS() as selector:
        selector.register(driver_connection, selectors.EVENT_READ)
        return bool(selector.select(0))


class IdleConnection(NamedTuple):
    driver_connection: Any
    isolation_level: Any
    close_at: float | None


# PostgreSQL connections that `call_with_clean_connections` has used and cleaned, by alias.
idle_connections: defaultdict[str, list[IdleConnection]] = defaultdict(list)


def call_with_clean_connections(call: Callable[[], object]) -> None:
    """Run a call in the current thread with connections that have no state of other calls."""
    for alias in connections:
        connections[alias] = create_clean_connection(alias)
    try:
        call()
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.vendor == "postgresql" and connection.connection is not None:
                keep_clean_connection(connection)
            connection.close()


def create_clean_connection(alias: str) -> DatabaseWrapper:
    """Return a connection that reuses an idle PostgreSQL connection if there is one."""
    connection: DatabaseWrapper = connections.create_connection(alias)
    options = connection.settings_dict["OPTIONS"]
    connection.settings_dict = connection.settings_dict | {
        "CONN_MAX_AGE": get_setting("ASGI_CONN_MAX_AGE"),
        # Connections of Django's own pool may have session variables that requests have SET.
        "OPTIONS": {name: value for name, value in options.items() if name != "pool"},
    }
    connect = connection.get_new_connection

    def get_new_connection(parameters: dict[str, Any]) -> Any:
        while idle := take_idle_connection(alias):
            if not (is_expired(idle.close_at) or has_input(idle.driver_connection)):
                connection.isolation_level = idle.isolation_level
                connection.close_at = idle.close_at
                return idle.driver_connection
            idle.driver_connection.close()
        return connect(parameters)

    connection.get_new_connection = get_new_connection
    return connection


def is_expired(close_at: float | None) -> bool:
    return close_at is not None and monotonic() >= close_at


def take_idle_connection(alias: str) -> IdleConnection | None:
    with suppress(IndexError):  # another thread was faster
        return idle_connections[alias].pop()
    return None


def keep_clean_connection(connection: DatabaseWrapper) -> None:
    """Clean a PostgreSQL connection, and keep it if it works, is not too old, and is needed."""
    driver_connection, kept = connection.connection, idle_connections[connection.alias]
    enough = get_setting("ASGI_BACKGROUND_THREADS")
    if is_expired(connection.close_at) or len(kept) >= enough:
        return
    try:
        with driver_connection.cursor() as cursor:
            cursor.execute("DISCARD ALL")
    except connection.Database.Error:
        return
    connection.connection = None
    kept.append(IdleConnection(driver_connection, connection.isolation_level, connection.close_at))


def close_idle_connections() -> None:
    for alias in connections:
        while idle := take_idle_connection(alias):
            idle.driver_connection.close()
