"""The class of `default_storage`."""

from pathlib import PurePath
from typing import IO, Any

from django.core.files.storage import FileSystemStorage, storages


class CourseStorage(FileSystemStorage):
    """Stores `entries/`, as used by the course's util.py, beside manage.py."""

    def path(self, name: str) -> str:
        entry = name_in_entries(name)
        return super().path(name) if entry is None else storages["entries"].path(entry)

    def save(self, name: str | None, content: IO[Any], max_length: int | None = None) -> str:
        entry = name_in_entries(name or "")
        if entry is None:
            return super().save(name, content, max_length)
        return f"entries/{storages['entries'].save(entry, content, max_length)}"


def name_in_entries(name: str) -> str | None:
    """Return the name without its prefix `entries/`, or None if it has another prefix."""
    parts = PurePath(name).parts
    return "/".join(parts[1:]) if parts[:1] == ("entries",) else None
