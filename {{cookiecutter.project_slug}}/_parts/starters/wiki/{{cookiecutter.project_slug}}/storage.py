"""Where `default_storage` keeps files."""

from pathlib import PurePath
from typing import IO, Any

from django.core.files.storage import FileSystemStorage, storages


class CourseStorage(FileSystemStorage):
    """Keeps `entries/`, which the course's util.py names, beside manage.py, and uploads in MEDIA_ROOT."""

    def path(self, name: str) -> str:
        entry = name_in_entries(name)
        return super().path(name) if entry is None else storages["entries"].path(entry)

    def save(self, name: str | None, content: IO[Any], max_length: int | None = None) -> str:
        entry = name_in_entries(name or "")
        if entry is None:
            return super().save(name, content, max_length)
        return f"entries/{storages['entries'].save(entry, content, max_length)}"


def name_in_entries(name: str) -> str | None:
    """Return the rest of a name that begins with `entries/`, or None."""
    parts = PurePath(name).parts
    return "/".join(parts[1:]) if parts[:1] == ("entries",) else None
