"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import os
import shutil
from collections.abc import Callable

import pytest

from tests.template import CHOICES, ROOT, Project

# Row 1: h2c past a proxy.


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_entries_that_are_not_what_they_seem(django_version: str, production: Callable[..., Project]) -> None:
    """A link, a FIFO, a folder, and bytes that are not UTF-8, in a file and in its name."""
    made = production(starter="wiki", django_version=django_version)
    shutil.copytree(ROOT / "tests" / "student", made.path, dirs_exist_ok=True)
    entries, secret = made.path / "entries", made.path / "secret.txt"
    secret.write_text("secret")
    (entries / "Link.md").symlink_to(secret)
    (entries / "Dangling.md").symlink_to(made.path / "new.txt")
    (entries / "Folder.md").mkdir()
    os.mkfifo(entries / "Fifo.md")
    (entries / "Latin.md").write_bytes("café".encode("latin-1"))
    (entries / os.fsdecode(b"\xff.md")).write_bytes(b"")
    not_entries = ("Link", "Dangling", "Folder", "Fifo")
    with made.served() as running, running.client(follow_redirects=True) as client:
        index = client.get("/")
        assert index.status_code == 200
        assert "Latin" in index.text
        assert not [title for title in not_entries if title in index.text]
        assert "caf\N{REPLACEMENT CHARACTER}" in client.get("/wiki/Latin/").text
        for title in not_entries:
            assert client.get(f"/wiki/{title}/").status_code == 404
        before = set(entries.iterdir())
        client.headers["Origin"] = "https://example.com"
        client.get("/accounts/login/")  # for the CSRF cookie
        for title in (*not_entries, "COM¹", "lpt³.x", "CLOCK$", "conin$", "CONOUT$", "con .x", "../up"):
            form = {"title": title, "content": "x", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
            answer = client.post("/new/", data=form)
            assert answer.status_code == 200
            assert "cannot be a title" in answer.text, title
        assert client.post("/new/", data=form | {"title": "Fine"}).url.path == "/wiki/Fine/"
        assert set(entries.iterdir()) == before | {entries / "Fine.md"}
        assert secret.read_text() == "secret"
        assert not (made.path / "new.txt").exists()
        assert "Traceback" not in running.output


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
