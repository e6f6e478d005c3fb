"""Guards that let tests change only temporary files, whatever the code under test does.

conftest.py uses this for pytest, and the setting TEST_RUNNER for `manage.py test`.
"""

import os
{% if cookiecutter.starter == "wiki" %}
import shutil
{% endif %}
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test.runner import DiscoverRunner
from django.test.utils import override_settings

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# The arguments of Python's audit events that are paths of changed files.
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


def temporary_file_settings(folder: Path) -> dict[str, Any]:
{% if cookiecutter.starter == "wiki" %}
    """Return settings that point file storages to `folder`, and copy `entries/` there."""
    entries = settings.BASE_DIR / "entries"
    if entries.is_dir():
        shutil.copytree(entries, folder / "entries", symlinks=True)
{% else %}
    """Return settings that point file storages to `folder`."""
{% endif %}
    storages: dict[str, Any] = deepcopy(settings.STORAGES)
    for alias, storage in storages.items():
        if "location" in storage.get("OPTIONS", {}):
            storage["OPTIONS"]["location"] = folder / alias
    return {"MEDIA_ROOT": folder, "STORAGES": storages}


def protect_files(folder: Path, is_test_running: Callable[[], bool]) -> None:
    """Let tests change only temporary files, including those in `folder`. This cannot be undone.

    Changing any other file, such as one with an absolute path, raises PermissionError.
    """
    project, folder = settings.BASE_DIR.resolve(), folder.resolve()
    temporary, devnull = (Path(path).resolve() for path in (tempfile.gettempdir(), os.devnull))

    def may_change(path: Path) -> bool:
        # The project itself may be in a folder for temporary files.
        is_temporary = path.is_relative_to(temporary) and not path.is_relative_to(project)
        return (
            is_temporary
            or path.is_relative_to(folder)
            or path == devnull
            or "__pycache__" in path.parts
        )

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGED_PATHS or not is_test_running():
            return
        if event == "open" and not args[2] & WRITE_FLAGS:
            return
        for name in args[CHANGED_PATHS[event]]:
            if isinstance(name, int):  # a file that is open already
                continue
            path = Path(os.fsdecode(name)).resolve()
            if not may_change(path) and not (event == "os.mkdir" and path.is_dir()):
                raise PermissionError(
                    f"A test tried to change {path}. Use a storage, a relative path or a temporary "
                    "folder: in tests they lead to temporary files."
                )

    sys.addaudithook(audit)


class TemporaryFilesRunner(DiscoverRunner):
    """Runs tests with storages and relative paths in a temporary folder."""

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        running = True
        with tempfile.TemporaryDirectory() as name:
            started_in, folder = Path.cwd(), Path(name)
            protect_files(folder, lambda: running)
            os.chdir(folder)
            try:
                with override_settings(**temporary_file_settings(folder)):
                    return super().run_suite(suite, **kwargs)
            finally:
                running = False
                os.chdir(started_in)
