"""Fixtures for all tests. Tests can change only temporary files: my_site/testing.py."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import connections
from pytest_django import Settings

from my_site.serving import monitoring
from my_site.testing import protect_files, temporary_file_settings

collect_ignore = ["media.files"]  # otherwise pytest would run uploaded files


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clean up after an async test by deleting rows instead of rolling back.

    Its ORM calls run in another thread, whose connection is not in the test's transaction.
    """
    for item in items:
        is_async = iscoroutinefunction(getattr(item, "function", None))
        if is_async and item.get_closest_marker("django_db"):
            item.add_marker(pytest.mark.django_db(transaction=True), append=False)


@pytest.fixture(autouse=True, scope="session")
def close_connections(django_db_setup: None) -> Iterator[None]:
    """Close the connections of async tests, since PostgreSQL does not drop a database in use."""
    yield
    asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture(autouse=True)
def temporary_files(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point file storages and relative paths to `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name, value in temporary_file_settings(tmp_path).items():
        setattr(settings, name, value)


@pytest.fixture(autouse=True)
def access_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the access log immediately, so that each line is in the output of its test."""
    monkeypatch.setattr(monitoring, "MAX_WAITING_LINES", 0)


@pytest.fixture(autouse=True, scope="session")
def write_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prevent tests from changing other files. Between tests, pytest may change them."""
    basetemp = tmp_path_factory.getbasetemp()
    protect_files(basetemp, lambda: "PYTEST_CURRENT_TEST" in os.environ)
    started_in = Path.cwd()
    os.chdir(basetemp)
    yield
    os.chdir(started_in)
