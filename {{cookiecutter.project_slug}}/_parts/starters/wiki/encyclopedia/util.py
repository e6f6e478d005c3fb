"""The entries of the encyclopedia: Markdown files in `entries/`, found by their titles.

Each function has an async form: `await util.aget_entry(title)` in an `async def` view.
"""

import os
import re
import unicodedata
from pathlib import Path

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage

# What no file may be called on one system or another. A dot at the start would hide the file.
FORBIDDEN = re.compile(r'[\\/:*?"<>|]|^[. ]|[. ]$')
RESERVED = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE
)


def list_entries():
    """The titles of all entries, in alphabetical order.

    Symbolic links are not entries: they may point to files outside the folder.
    """
    try:
        with os.scandir(entries_storage().path("")) as files:
            names = [file.name for file in files if file.is_file(follow_symlinks=False)]
    except FileNotFoundError:  # git keeps no empty folder
        return []
    titles = [name.removesuffix(".md") for name in names if name.endswith(".md")]
    # A name that is not valid UTF-8 cannot be printed.
    return sorted(filter(str.isprintable, titles), key=fold)


def save_entry(title, content):
    """Save an entry, in place of the one with this title if there is one.

    Raises ValueError, with a sentence for people to read, if there can be no entry with this title.
    """
    check(title)
    existing_title = find(title)
    name = f"{existing_title or unicodedata.normalize('NFC', title)}.md"
    if existing_title is None and os.path.lexists(entries_storage().path(name)):
        raise ValueError(f"“{title}” cannot be a title: {name} exists and is not a regular file.")
    # Browsers send \r\n. On Windows, written as text, that would become \r\r\n.
    lines = content.replace("\r\n", "\n").encode()
    entries_storage().save(name, ContentFile(lines))


def get_entry(title):
    """The Markdown of the entry with this title, upper or lower case, or None."""
    title = find(title)
    if title is None:
        return None
    with entries_storage().open(f"{title}.md") as file:
        # Some editors begin a file with a byte order mark, or save it in another encoding than UTF-8.
        return file.read().decode("utf-8-sig", errors="replace").replace("\r\n", "\n")


def entries_storage():
    """The folder `entries/` beside manage.py, wherever the command was started."""
    folder = Path(settings.MEDIA_ROOT or settings.BASE_DIR, "entries")
    return FileSystemStorage(folder, allow_overwrite=True)


def find(title):
    """The title as the entry has it, or None."""
    titles = list_entries()
    if title in titles:
        return title
    return next((each for each in titles if fold(each) == fold(title)), None)


def fold(title):
    """The same for titles that differ only in upper and lower case or in how accents are encoded."""
    return unicodedata.normalize("NFC", title).casefold()


def check(title):
    if not title:
        raise ValueError("An entry needs a title.")
    if len(title.encode(errors="replace")) > 200:
        raise ValueError("This title is too long: 200 bytes are the limit.")
    # What cannot be printed could also make a title look like another one: U+202E reverses it.
    if not title.isprintable() or FORBIDDEN.search(title) or RESERVED.fullmatch(title):
        raise ValueError(
            f"“{title}” cannot be a title: it has to work as a file name on every system, so it may "
            'not hold any of \\ / : * ? " < > |, nor begin or end with a dot or a space.'
        )


# Files have no async form of their own: these run in a thread.
alist_entries = sync_to_async(list_entries)
asave_entry = sync_to_async(save_entry)
aget_entry = sync_to_async(get_entry)
