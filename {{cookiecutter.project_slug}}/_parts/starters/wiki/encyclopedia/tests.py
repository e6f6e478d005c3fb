"""Tests of the app `encyclopedia`: when you replace its pages, replace or delete this file."""

import shutil
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils.html import escape

from encyclopedia import util

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def entries(temporary_files: None, tmp_path: Path) -> Path:
    """A temporary folder with two entries, by the fixture `temporary_files` of conftest.py."""
    shutil.rmtree(tmp_path / "entries", ignore_errors=True)
    util.save_entry("CSS", "# CSS\n\nStyles.\n")
    util.save_entry("Python", "# Python\n\n<b>bold</b>\n")
    return tmp_path / "entries"


def entry_url(title: str) -> str:
    """Return the path of an entry's page. The title is not quoted: it may be quoted or invalid."""
    return reverse("entry", args=["TITLE"]).replace("TITLE", title)


def test_index(client: Client) -> None:
    page = client.get(reverse("index"))
    assert page.status_code == 200
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in page.text
    for title in ("CSS", "Python"):
        assert title in page.text


def test_signed_in_user(client: Client) -> None:
    client.force_login(get_user_model().objects.create_user("ada"))
    assert ">ada</a>" in client.get(reverse("index")).text


@pytest.mark.parametrize("title", ["Python", "python", "PYTHON"])
async def test_entry(async_client: AsyncClient, title: str) -> None:
    page = await async_client.get(entry_url(title))
    assert page.status_code == 200
    assert f"<title>{title} ·" in page.content.decode()
    assert "bold" in page.content.decode()


# When you have built what these two tests are about, replace them with your own.


async def test_plain_text_until_you_build_it(async_client: AsyncClient) -> None:
    page = await async_client.get(entry_url("Python"))
    assert "# Python\n\n&lt;b&gt;bold&lt;/b&gt;" in page.content.decode(), (
        "An entry is no longer shown as plain text. If you now convert its Markdown to HTML, "
        "replace this test with a test of the HTML."
    )


@pytest.mark.parametrize("name", ["search", "new_page", "random_page"])
def test_placeholder_until_you_build_it(client: Client, name: str) -> None:
    assert "yours to build" in client.get(reverse(name), {"q": "py"}).text, (
        f"“{name}” no longer says what to build. If you have built it, "
        "remove its name from this test's list, and write a test of your view."
    )


@pytest.mark.parametrize("title", ["Nothing", "..", "..%2fmanage.py", "%00", "%ff", "a" * 5000])
def test_entry_not_found(client: Client, title: str) -> None:
    assert client.get(entry_url(title)).status_code == 404


def test_not_found_page_escapes_title(client: Client) -> None:
    page = client.get(entry_url("<b>"))
    assert page.status_code == 404
    assert "There is no entry “&lt;b&gt;”" in page.text


def test_no_entries_yet(client: Client, entries: Path) -> None:
    for path in entries.iterdir():
        path.unlink()
    entries.rmdir()
    assert client.get(reverse("index")).status_code == 200
    util.save_entry("First", "")
    assert util.list_entries() == ["First"]


def test_list_entries() -> None:
    util.save_entry("ajax", "")
    assert util.list_entries() == ["ajax", "CSS", "Python"]


GOOD_TITLES = ["C++", "Q & A", "100 %", "Ünïcödé", "日本語", "v1.0", "a'b", "é" * 100]


@pytest.mark.parametrize("title", GOOD_TITLES)
def test_titles(title: str) -> None:
    util.save_entry(title, f"about {title}")
    assert util.get_entry(title) == f"about {title}"
    assert title in util.list_entries()


BAD_TITLES = ["", "..", "../up", "/etc/passwd", "a\\b", ".env", "end.", " a", "a\nb", "a\0b", "NUL"]
BAD_TITLES += ["a\x7fb", "a\N{RIGHT-TO-LEFT OVERRIDE}b"]
BAD_TITLES += ["com1.x", "COM¹", "con .x", "conin$", "CLOCK$"]


@pytest.mark.parametrize("title", [*BAD_TITLES, "é" * 100 + "x"])
def test_invalid_titles(title: str, entries: Path) -> None:
    reasons = {"": "needs a title", "é" * 100 + "x": "201 bytes"}
    with pytest.raises(ValueError, match=reasons.get(title, "cannot be a title.+Do not use")):
        util.save_entry(title, "")
    assert sorted(path.name for path in entries.iterdir()) == ["CSS.md", "Python.md"]


def test_one_entry_for_each_title() -> None:
    util.save_entry("css", "new")
    util.save_entry("Cafe\N{COMBINING ACUTE ACCENT}", "1")
    util.save_entry("CAFÉ", "2")
    assert util.list_entries() == ["Café", "CSS", "Python"]
    assert util.get_entry("CSS") == "new"
    assert util.get_entry("café") == "2"


def test_line_breaks_are_not_doubled(entries: Path) -> None:
    for _ in range(3):
        content = util.get_entry("CSS")
        assert content
        util.save_entry("CSS", content.replace("\n", "\r\n"))  # as a browser sends it
    assert (entries / "CSS.md").read_bytes() == b"# CSS\n\nStyles.\n"


def test_windows_line_breaks(entries: Path) -> None:
    (entries / "CSS.md").write_bytes(b"# CSS\r\n\r\nStyles.\r\n")
    assert util.get_entry("CSS") == "# CSS\n\nStyles.\n"


def test_other_encodings(entries: Path) -> None:
    (entries / "CSS.md").write_bytes("\ufeffcafé".encode())
    assert util.get_entry("CSS") == "café"
    (entries / "CSS.md").write_bytes("café".encode("latin-1"))
    assert util.get_entry("CSS") == "caf\N{REPLACEMENT CHARACTER}"


def test_irregular_files(entries: Path) -> None:
    (entries / "Folder.md").mkdir()
    assert util.list_entries() == ["CSS", "Python"]
    assert util.get_entry("Folder") is None
    with pytest.raises(ValueError, match="Folder.md exists and is not a regular file"):
        util.save_entry("Folder", "")


async def test_async_versions() -> None:
    await util.asave_entry("Git", "Versions.")
    assert await util.aget_entry("git") == "Versions."
    assert await util.alist_entries() == ["CSS", "Git", "Python"]
