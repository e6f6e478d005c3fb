"""Tests change temporary files only, whatever the code under test does: nothing of yours is lost."""

import asyncio
import os
{% if cookiecutter.starter == "wiki" %}
import shutil
{% endif %}
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings as project_settings
from django.db import connections
from pytest_django import Settings

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Which arguments of Python's audit events are the paths that change.
CHANGED_PATHS = {
    "open": slice(0, 1),
    "os.link": slice(1, 2),
    "os.mkdir": slice(0, 1),
    "os.remove": slice(0, 1),
    "os.rename": slice(0, 2),
    "os.rmdir": slice(0, 1),
    "os.symlink": slice(1, 2),
    "os.truncate": slice(0, 1),
    "shutil.rmtree": slice(0, 1),
}
collect_ignore = ["media"]  # or pytest would run what visitors upload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What an async test writes is deleted after it, not rolled back.

    The ORM works in another thread then, whose connection has no part in the test's transaction.
    """
    for item in items:
        is_async = iscoroutinefunction(getattr(item, "function", None))
        if is_async and item.get_closest_marker("django_db"):
            item.add_marker(pytest.mark.django_db(transaction=True), append=False)


@pytest.fixture(autouse=True, scope="session")
def close_connections(django_db_setup: None) -> Iterator[None]:
    """Closes those of async tests: PostgreSQL does not drop a database that is in use."""
    yield
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture(autouse=True)
def temporary_files(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
{% if cookiecutter.starter == "wiki" %}
    """File storages and relative paths lead to `tmp_path`, where there is a copy of `entries/`."""
    if project_settings.BASE_DIR.joinpath("entries").is_dir():
        shutil.copytree(project_settings.BASE_DIR / "entries", tmp_path / "entries", symlinks=True)
{% else %}
    """File storages and relative paths lead to `tmp_path`. It is empty at first, like the database."""
{% endif %}
    monkeypatch.chdir(tmp_path)
    settings.MEDIA_ROOT = tmp_path
    storages = {}
    for alias, storage in settings.STORAGES.items():
        options = storage.get("OPTIONS", {})
        if "location" in options:
            options = options | {"location": tmp_path / alias}
        storages[alias] = storage | {"OPTIONS": options}
    settings.STORAGES = storages


@pytest.fixture(autouse=True, scope="session")
def write_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Refuses to change any other file: an absolute path may lead to one."""
    project = project_settings.BASE_DIR.resolve()
    basetemp = tmp_path_factory.getbasetemp().resolve()
    temporary, devnull = (Path(path).resolve() for path in (tempfile.gettempdir(), os.devnull))

    def may_change(path: Path) -> bool:
        # The project itself may be in a folder for temporary files.
        is_temporary = path.is_relative_to(temporary) and not path.is_relative_to(project)
        return (
            is_temporary
            or path.is_relative_to(basetemp)
            or path == devnull
            or "__pycache__" in path.parts
        )

    def audit(event: str, args: tuple[Any, ...]) -> None:
        # pytest and its plugins may write between the tests.
        if event not in CHANGED_PATHS or "PYTEST_CURRENT_TEST" not in os.environ:
            return
        if event == "open" and not args[2] & WRITE_FLAGS:
            return
        for name in args[CHANGED_PATHS[event]]:
            if isinstance(name, int):  # a file that is open already
                continue
            path = Path(os.fsdecode(name)).resolve()
            if not may_change(path) and not (event == "os.mkdir" and path.is_dir()):
                raise PermissionError(
                    f"A test tried to change {path}. Use a storage, a relative path or `tmp_path`: "
                    "in tests they lead to temporary files."
                )

    sys.addaudithook(audit)
    started_in = Path.cwd()
    os.chdir(basetemp)
    yield
    os.chdir(started_in)
