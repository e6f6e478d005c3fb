"""Four programs: each sets the owner whose data a thread or connection shows (`set_owner`), and reads it (`read_owner`)."""

import threading
from collections.abc import Callable

from django.conf import settings
from django.db import ProgrammingError, connection
from psycopg import errors

from .models import RoleNote
from .notes.models import Note

local = threading.local()


def set_setting(owner: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('app.tenant', %s, false)", [owner])


def read_setting() -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.tenant', true)")
        return cursor.fetchone()[0] or None


def set_role(owner: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {settings.ROLE_PREFIX}{owner}")


def read_role() -> str | None:
    return read_rows(RoleNote, errors.InsufficientPrivilege)


def set_schema(owner: str) -> None:
    connection.set_schema(f"t{owner}")  # type: ignore[attr-defined]  # of django-tenants' backend


def read_schema() -> str | None:
    return read_rows(Note, errors.UndefinedTable)


def read_rows(model: type[RoleNote | Note], error_when_clean: type[Exception]) -> str | None:
    """The owners of all rows that can be seen, or None where PostgreSQL refuses to show any."""
    try:
        return ",".join(sorted(model.objects.values_list("owner", flat=True)))
    except ProgrammingError as error:
        if isinstance(error.__cause__, error_when_clean):
            return None
        raise


def set_local(owner: str) -> None:
    local.owner = owner


def read_local() -> str | None:
    return getattr(local, "owner", None)


PROGRAMS: dict[str, tuple[Callable[[str], None], Callable[[], str | None]]] = {
    "setting": (set_setting, read_setting),
    "role": (set_role, read_role),
    "schema": (set_schema, read_schema),
    "local": (set_local, read_local),
}


def set_owner(program: str, owner: str) -> None:
    PROGRAMS[program][0](owner)


def read_owner(program: str) -> str | None:
    return PROGRAMS[program][1]()


def set_and_read_owner(program: str, owner: str) -> str | None:
    set_owner(program, owner)
    return read_owner(program)
