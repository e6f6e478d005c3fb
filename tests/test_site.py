"""The site that `make docs` builds from docs/: its links, its search, and what axe-core says of its pages."""

import functools
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from tests.template import PAGES, ROOT
from tests.test_browser import check_accessibility, chromium, playwright  # noqa: F401 (fixtures)

# The theme puts each button that copies code into a landmark of its own.
DISABLED_RULES = ["landmark-unique"]
SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]
# Each thing that pages have: a picture, code in several languages, wide tables. All pages have the same style sheet.
PAGES_IN_THE_DARK = ["/", "/benchmarks/", "/how-to/deploying/", "/reference/settings/"]
PHONE = ViewportSize(width=320, height=640)
DESKTOP = ViewportSize(width=1280, height=720)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Not by `make docs`, which writes pages first: tests/test_reference.py compares those that are committed.
    folder = copy_docs(tmp_path_factory.mktemp("site"))
    result = build_site(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"


def copy_docs(folder: Path) -> Path:
    """Copy what the site is built from: several processes may run these tests."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


def build_site(folder: Path) -> subprocess.CompletedProcess[str]:
    [command] = re.findall(r"\$\(VENV\)/zensical (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    program = Path(sys.executable).with_name("zensical")
    return subprocess.run([program, *command.split()], cwd=folder, check=False, capture_output=True, text=True)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site_url(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class LinkParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                (self.targets if tag == "a" else self.loaded).append(value)
            elif name == "id" and value:
                self.ids.add(value)


def parse_page(path: Path) -> LinkParser:
    parser = LinkParser()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_links_of_the_site(site: Path) -> None:
    """Each link within the site leads to a page, and to a heading on it if it names one."""
    pages = {f"/{path.relative_to(site).as_posix()}": parse_page(path) for path in site.rglob("*.html")}
    assert len(pages) >= len(PAGES)
    for name, page in pages.items():
        for target in page.targets + page.loaded:
            url = urlsplit(urljoin(name, target))
            if url.netloc:
                assert target in page.targets, f"{name} loads {target} from another host"
                continue
            path = unquote(url.path) + ("index.html" if url.path.endswith("/") else "")
            assert (site / path.lstrip("/")).is_file(), f"{name}: {target}"
            if url.fragment and not url.fragment.startswith("__"):  # the theme's own
                assert unquote(url.fragment) in pages[path].ids, f"{name}: {target}"


@pytest.mark.parametrize("link", ["[dead](no-such-page.md)", "[dead](how-to/streams.md#no-such-heading)"])
def test_dead_links_fail_the_build(link: str, tmp_path: Path) -> None:
    index = copy_docs(tmp_path) / "docs" / "index.md"
    index.write_text(f"{index.read_text(encoding='utf-8')}\n{link}\n", encoding="utf-8")
    result = build_site(tmp_path)
    assert result.returncode != 0
    assert "1 issue found" in result.stdout + result.stderr


def test_each_page_is_in_the_navigation() -> None:
    def names(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from names(each)

    navigation = list(names(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES.values() if path.name != "README.md"]
    assert sorted(navigation) == sorted(pages)
    index = PAGES["index.md"].read_text(encoding="utf-8")
    assert [page for page in pages if f"]({page}" not in index and page != "index.md"] == []


def test_site_in_a_browser(site: Path, site_url: str, chromium: Browser) -> None:  # noqa: F811
    """On no page does axe-core find anything; no page is wider than a phone; nothing is loaded from another host."""
    paths = sorted(
        f"/{page.relative_to(site).parent.as_posix()}/".replace("/./", "/") for page in site.rglob("index.html")
    )
    assert len(paths) == len(PAGES) - 1  # without the README
    with chromium.new_context(base_url=site_url, reduced_motion="reduce") as context:
        requests: list[str] = []
        console: list[str] = []
        context.on("request", lambda request: requests.append(request.url))
        context.on("console", lambda message: console.append(message.text))
        page = context.new_page()
        for path in paths:
            page.goto(path)
            check_accessibility(page, *DISABLED_RULES, schemes=SCHEMES if path in PAGES_IN_THE_DARK else SCHEMES[:1])
            page.set_viewport_size(PHONE)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
            page.set_viewport_size(DESKTOP)
        page.goto("/")
        page.get_by_role("button", name="Search").click()
        page.keyboard.type("half-open connections")
        page.get_by_role("option", name="Half-open connections").first.click()
        expect(page).to_have_url(f"{site_url}/explanation/servers/#half-open-connections")
    # Chromium says that the theme's search field got no focus, since the URL names a heading.
    assert [text for text in console if not text.startswith("Autofocus")] == []
    assert [url for url in requests if not url.startswith((f"{site_url}/", "data:", "blob:"))] == []
