"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import getpass
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.template import CHOICES, IN_CI, ROOT, SERVERS, Project, Server, free_port, label

ATTACKS_ARE_REFUSED_WITHIN_SECONDS = 20
Production = Callable[..., Project]


class Service(ThreadingHTTPServer):
    """Something that the board of `live` checks: /drip/ sends 103 twice a second, /redirect/ leads to another path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ServiceHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.paths: list[str] = []
        self.closing = threading.Event()


class ServiceHandler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        with suppress(OSError):  # the client has left
            while self.path == "/drip/" and not self.server.closing.wait(0.5):
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            self.send_response(302 if self.path == "/redirect/" else 200)
            self.send_header("Location", "/secret/")
            self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.closing.set()
        server.shutdown()


def add_services(made: Project, urls: dict[str, str]) -> None:
    rows = f"[Service(name=name, url=url) for name, url in {urls!r}.items()]"
    made.manage("shell", "--command", f"from status.models import *; Service.objects.bulk_create({rows})")


def sign_in(client: httpx.Client) -> None:
    client.headers["Origin"] = "https://example.com"
    client.get("/accounts/login/")
    form = {"username": "ada", "password": "analytical-engine"}
    assert post(client, "/accounts/login/", **form).status_code == 302


def post(client: httpx.Client, path: str, **form: str) -> httpx.Response:
    return client.post(path, data=form | {"csrfmiddlewaretoken": client.cookies["csrftoken"]})


# Row 1: h2c past a proxy.


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_service_that_drips(django_version: str, production: Production, service: Service) -> None:
    """It holds up neither the comparisons, nor the next call of them, nor the rest of the site."""
    made = production(starter="live", django_version=django_version)
    add_services(made, {"drips": f"{service.url}/drip/", "fine": f"{service.url}/fine/"})
    variables = {"STATUS_ALLOW_LOCAL_ADDRESSES": "true", "ASGI_THREADS": "1"}
    with made.served(**variables) as running, running.client() as client, ThreadPoolExecutor() as pool:
        for _ in range(2):
            start = time.monotonic()
            answers = [pool.submit(client.get, f"/{view}/") for view in ("sync", "async")]
            assert client.get("/").status_code == 200
            for answer in answers:
                assert answer.result().json()["services"] == {"drips": "down", "fine": "up"}
            assert time.monotonic() - start < ATTACKS_ARE_REFUSED_WITHIN_SECONDS
        assert service.paths.count("/drip/") == 4


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.

PAGES = {
    "blank": ["/", "/async/", "/sync/"],
    "wiki": ["/", "/wiki/Python", "/search/", "/wiki/nothing"],
    "chat": ["/", "/chat/lobby/"],
    "live": ["/"],
}


@pytest.mark.parametrize(
    "answers",
    [
        {"starter": starter, "server": server, "django_version": django_version}
        for starter, server, django_version in zip(
            [*PAGES, "blank"], SERVERS, itertools.cycle(CHOICES["django_version"]), strict=False
        )
    ],
    ids=label,
)
def test_pages_in_a_shared_cache(answers: dict[str, str], production: Production) -> None:
    """Those of a user, and those of a visitor, which depend on a cookie as well; files may be kept, as they are."""
    made = production(**answers)
    paths = [*PAGES[answers["starter"]], "/accounts/password_change/", "/admin/"]
    with made.served() as running, running.client() as client:
        check_pages(client, paths)
        [style] = re.findall(r'href="(/static/site\.\w+\.css)"', client.get("/").text)
        sign_in(client)
        for page in check_pages(client, paths):
            assert ">ada</a>" in page or "<strong>ada</strong>" in page
        file = client.get(style)
        assert file.headers["cache-control"] == "max-age=315360000, public, immutable"
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["strict-transport-security"] == client.get("/").headers["strict-transport-security"]
        with running.client(https=False) as insecure_client:
            assert "strict-transport-security" not in insecure_client.get(style).headers
        assert "Traceback" not in running.output


def check_pages(client: httpx.Client, paths: list[str]) -> list[str]:
    pages = [client.get(path) for path in paths]
    for page in pages:
        assert {"private", "no-store"} & set(page.headers.get("cache-control", "").split(", ")), page.url
    return [page.text for page in pages]


def test_shared_cache_that_ignores_vary(production: Production, tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.fail("there is no nginx") if IN_CI and sys.platform == "linux" else pytest.skip("there is no nginx")
    made, port = production(), free_port()
    with (
        made.served() as running,
        running.client() as signed_in,
        cache_in_front(running, port, tmp_path),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "example.com"}) as client,
    ):
        sign_in(signed_in)
        page = client.get("/", headers={"Cookie": f"sessionid={signed_in.cookies['sessionid']}"})
        assert ">ada</a>" in page.text
        assert ">ada</a>" not in client.get("/").text
        [style] = re.findall(r'href="(/static/site\.\w+\.css)"', page.text)
        assert [client.get(style).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]


@contextmanager
def cache_in_front(running: Server, port: int, folder: Path) -> Iterator[None]:
    """An nginx that keeps what it may for all visitors, whatever cookies they send."""
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
        daemon off; pid {folder}/pid; error_log stderr; user {getpass.getuser()};
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/temp;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            proxy_cache_path {folder}/cache keys_zone=pages:1m;
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass {running.url};
                    proxy_set_header Host $host;
                    proxy_set_header X-Forwarded-Proto https;
                    proxy_cache pages;
                    proxy_cache_valid 200 1m;
                    proxy_ignore_headers Vary Set-Cookie;
                    add_header X-Cache $upstream_cache_status;
                }}
            }}
        }}
    """)
    process = subprocess.Popen(["nginx", "-c", str(configuration)])
    try:
        running.wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200)
        yield
    finally:
        process.terminate()
        process.wait(15)


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_urls_of_services(django_version: str, production: Production, service: Service) -> None:
    """In the admin, and in rows that got into the database another way."""
    made = production(starter="live", django_version=django_version)
    local_hosts = ["127.0.0.1", "127.1", "2130706433", "0", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."]
    local_urls = {host: f"http://{host}:{service.server_port}/" for host in local_hosts}
    add_services(made, {"credentials": "http://ada:secret@example.com:1/"} | local_urls)
    made.manage("check_services", "--once")
    with made.served() as running, running.client() as client:
        board = client.get("/").text
        assert 'href="http://example.com:1/"' in board
        assert "secret" not in board
        assert set(client.get("/async/").json()["services"].values()) == {"down"}
        sign_in(client)
        for url in (
            "http://ada:secret@example.com/",
            "http://token@example.com/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://localhost:8000/",
            "http://169.254.169.254/latest/meta-data/",
            "ftp://example.com/",
        ):
            answer = post(client, "/admin/status/service/add/", name="new", url=url)
            assert "errorlist" in answer.text, url
        assert post(client, "/admin/status/service/add/", name="new", url="http://10.0.0.7/").status_code == 302
    assert not service.paths


def test_redirect_of_a_service(production: Production, service: Service) -> None:
    """A service cannot have the check sent elsewhere."""
    made = production(starter="live")
    made.variables["STATUS_ALLOW_LOCAL_ADDRESSES"] = "true"
    made.__dict__.pop("environment", None)
    add_services(made, {"redirects": f"{service.url}/redirect/"})
    made.manage("check_services", "--once")
    assert service.paths == ["/redirect/"]


# Row 13: the entries' files and names.


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_entries_that_are_not_what_they_seem(django_version: str, production: Production) -> None:
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
        assert "caf\N{REPLACEMENT CHARACTER}" in client.get("/wiki/Latin").text
        for title in not_entries:
            assert client.get(f"/wiki/{title}").status_code == 404
        before = set(entries.iterdir())
        client.headers["Origin"] = "https://example.com"
        client.get("/accounts/login/")  # for the CSRF cookie
        for title in (*not_entries, "COM¹", "lpt³.x", "CLOCK$", "conin$", "CONOUT$", "con .x", "../up"):
            answer = post(client, "/new/", title=title, content="x")
            assert answer.status_code == 200
            assert "cannot be a title" in answer.text, title
        assert post(client, "/new/", title="Fine", content="x").url.path == "/wiki/Fine"
        assert set(entries.iterdir()) == before | {entries / "Fine.md"}
        assert secret.read_text() == "secret"
        assert not (made.path / "new.txt").exists()
        assert "Traceback" not in running.output


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
