"""The entries of the encyclopedia, which are Markdown files in `entries/`.

Each function has an async version: call `await util.aget_entry(title)` in an `async def` view.
"""

import os
import re
import unicodedata
from typing import cast

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages

# Invalid in file names on some systems. A dot at the start would hide the file.
FORBIDDEN_CHARACTERS = re.compile(r'[\\/:*?"<>|]|^[. ]|[. ]$')
RESERVED_NAMES = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)


def list_entries() -> list[str]:
    """Return the titles of all entries in alphabetical order.

    Symbolic links are not entries, because they can point to files outside the folder.
    """
    try:
        with os.scandir(entries_storage().path("")) as files:
            names = [file.name for file in files if file.is_file(follow_symlinks=False)]
    except FileNotFoundError:  # git does not store empty folders
        return []
    titles = [name.removesuffix(".md") for name in names if name.endswith(".md")]
    # A name that is not valid UTF-8 cannot be printed.
    return sorted(filter(str.isprintable, titles), key=fold)


def save_entry(title: str, content: str) -> None:
    """Save an entry. An existing entry with this title is overwritten.

    Raises ValueError, with a message for users, if the title is invalid.
    """
    validate_title(title)
    existing_title = find_title(title)
    name = f"{existing_title or unicodedata.normalize('NFC', title)}.md"
    if existing_title is None and os.path.lexists(entries_storage().path(name)):
        raise ValueError(f"“{title}” cannot be a title: {name} exists and is not a regular file.")
    # Browsers send \r\n, which text mode would write as \r\r\n on Windows.
    lines = content.replace("\r\n", "\n").encode()
    entries_storage().save(name, ContentFile(lines))


def get_entry(title: str) -> str | None:
    """Return the Markdown of the entry with this title, ignoring case, or None."""
    existing_title = find_title(title)
    if existing_title is None:
        return None
    with entries_storage().open(f"{existing_title}.md") as file:
        content: bytes = file.read()
    # Some editors add a byte order mark, or use an encoding other than UTF-8.
    return content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")


def entries_storage() -> FileSystemStorage:
    """Return the storage of `entries/` beside manage.py, in any working directory."""
    if "entries" in settings.STORAGES:
        return cast(FileSystemStorage, storages["entries"])
    # In a project made with `startproject`.
    return FileSystemStorage(settings.BASE_DIR / "entries", allow_overwrite=True)


def find_title(title: str) -> str | None:
    """Return the title of the entry as stored, or None."""
    titles = list_entries()
    if title in titles:
        return title
    return next((each for each in titles if fold(each) == fold(title)), None)


def fold(title: str) -> str:
    """Return the same value for titles that differ only in case or in the encoding of accents."""
    return unicodedata.normalize("NFC", title).casefold()


def validate_title(title: str) -> None:
    if not title:
        raise ValueError("An entry needs a title.")
    size = len(title.encode(errors="replace"))
    if size > 200:
        raise ValueError(f"The title is too long: {size} bytes. Use at most 200 bytes.")
    # Unprintable characters can make a title look like another: U+202E reverses it.
    is_forbidden = FORBIDDEN_CHARACTERS.search(title) or RESERVED_NAMES.fullmatch(title)
    if is_forbidden or not title.isprintable():
        raise ValueError(
            f"“{title}” cannot be a title, because it is not a valid file name on every system. Do "
            'not use \\ / : * ? " < > |, unprintable characters, names reserved by Windows, or a '
            "dot or space at the start or end."
        )


# Django has no async API for files, so these run in a thread.
alist_entries = sync_to_async(list_entries)
asave_entry = sync_to_async(save_entry)
aget_entry = sync_to_async(get_entry)
