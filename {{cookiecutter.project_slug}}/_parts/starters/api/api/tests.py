"""Tests of the app `api`: when you replace it, replace or delete this file."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client
from django.urls import reverse
from pytest_django import Settings

from api import notes, upstreams
from api.api import api
from api.models import Note, Token

pytestmark = pytest.mark.django_db(transaction=True)

NOTE = {"title": "Hello", "text": "world", "pinned": True}


@pytest.fixture(autouse=True)
def no_earlier_requests() -> None:
    """Clear the cache, which all tests share: the rate limit is counted in it."""
    cache.clear()


@pytest.fixture
def ada() -> Any:
    return get_user_model().objects.create_superuser("ada", "ada@example.com", "x")


@pytest.fixture
def bob() -> Any:
    return get_user_model().objects.create_user("bob")


class ApiClient(AsyncClient):
    """Sends JSON with a user's token."""

    def __init__(self, user: Any, **options: Any) -> None:
        super().__init__(**options)
        self.token = Token.objects.create(user=user, name="test")

    async def send(self, method: str, path: str, data: object = None) -> Any:
        content = {} if data is None else {"data": data, "content_type": "application/json"}
        headers = {"Authorization": f"Bearer {self.token.secret}"}
        return await getattr(self, method)(f"/api/{path}", headers=headers, **content)


@pytest.fixture
def client_of_ada(ada: Any) -> ApiClient:
    return ApiClient(ada)


@pytest.fixture
def client_of_bob(bob: Any) -> ApiClient:
    return ApiClient(bob)


async def test_create_read_replace_delete(client_of_ada: ApiClient) -> None:
    created = await client_of_ada.send("post", "notes", NOTE)
    note = created.json()
    assert created.status_code == 201
    assert created["Location"] == f"/api/notes/{note['id']}"
    assert {key: note[key] for key in NOTE} == NOTE
    path = f"notes/{note['id']}"
    assert (await client_of_ada.send("get", path)).json() == note
    changed = (await client_of_ada.send("put", path, {"title": "Bye"})).json()
    assert (changed["title"], changed["text"], changed["pinned"]) == ("Bye", "", False)
    assert changed["created"] == note["created"]
    assert changed["changed"] > note["changed"]
    assert (await client_of_ada.send("delete", path)).status_code == 204
    for method in ("get", "delete"):
        assert (await client_of_ada.send(method, path)).status_code == 404
    assert (await client_of_ada.send("put", path, NOTE)).status_code == 404
    assert not await Note.objects.aexists()


async def test_notes_of_other_users(client_of_ada: ApiClient, client_of_bob: ApiClient) -> None:
    path = f"notes/{(await client_of_ada.send('post', 'notes', NOTE)).json()['id']}"
    for method, data in (("get", None), ("put", {"title": "Mine"}), ("delete", None)):
        assert (await client_of_bob.send(method, path, data)).status_code == 404
    assert (await client_of_bob.send("get", "notes")).json() == {"items": [], "count": 0}
    exported = await client_of_bob.send("get", "notes/export")
    assert [line async for line in exported.streaming_content] == [b""]
    assert (await client_of_ada.send("get", path)).json()["title"] == "Hello"


async def test_lists(client_of_ada: ApiClient, ada: Any) -> None:
    for title, text, pinned in [("b", "tea", False), ("c", "", True), ("a", "TEA", True)]:
        await Note.objects.acreate(owner=ada, title=title, text=text, pinned=pinned)

    async def titles(query: str) -> str:
        page = (await client_of_ada.send("get", f"notes?{query}")).json()
        return "".join(note["title"] for note in page["items"])

    assert await titles("") == "acb"
    assert await titles("order=created") == "bca"
    assert await titles("order=-title&limit=2") == "cb"
    assert await titles("order=title&limit=2&offset=2") == "c"
    assert await titles("pinned=true") == "ac"
    assert await titles("pinned=false") == "b"
    assert await titles("search=Tea") == "ab"
    assert (await client_of_ada.send("get", "notes?limit=1")).json()["count"] == 3


@pytest.mark.parametrize("count", [0, 1, 4, 5])
async def test_export(
    client_of_ada: ApiClient, ada: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "EXPORT_BATCH_ROWS", 2)
    for number in range(count):
        await Note.objects.acreate(owner=ada, title=f"line\n{number}")
    response = await client_of_ada.send("get", "notes/export")
    assert response["Content-Type"] == "application/x-ndjson"
    lines = b"".join([part async for part in response.streaming_content]).splitlines()
    exported = [json.loads(line)["title"] for line in lines]
    assert exported == [f"line\n{number}" for number in range(count)]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"title": ""},
        {"title": "x" * 201},
        {"title": 1},
        {"title": "\0"},
        {"title": "\ud800"},
        {"title": "x", "pinned": "yes"},
        {"title": "x", "owner": 1},
        [],
    ],
)
async def test_invalid_notes(client_of_ada: ApiClient, data: object) -> None:
    response = await client_of_ada.send("post", "notes", data)
    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    assert problem["errors"][0]["loc"][:2] == ["body", "data"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", f"offset={10**20}", "order=id", "search=%00", "pinned=2"]
)
async def test_invalid_queries(client_of_ada: ApiClient, query: str) -> None:
    assert (await client_of_ada.send("get", f"notes?{query}")).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "nothing", 404),
        ("get", "notes/1", 404),
        ("get", "notes/x", 422),
        ("get", f"notes/{10**30}", 422),
        ("patch", "notes/1", 405),
        ("post", "notes", 400),
    ],
)
async def test_problems(client_of_ada: ApiClient, method: str, path: str, status: int) -> None:
    """Errors of Django, of the API and of django-ninja."""
    response = await client_of_ada.send(method, path, "{" if status == 400 else None)
    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"
    assert response["Cache-Control"] == "private"
    assert response.json()["status"] == status
    assert ("Allow" in response) == (status == 405)


@pytest.mark.parametrize("debug", [False, True])
async def test_server_error(ada: Any, debug: bool, settings: Settings) -> None:
    """In production, a problem without details; in debug mode, Django's page with the traceback."""
    settings.DEBUG = debug
    client = await sync_to_async(ApiClient)(ada, raise_request_exception=False)
    settings.API_UPSTREAMS = 1 / 3  # not iterable
    response = await client.send("get", "upstreams")
    assert response.status_code == 500
    if debug:
        assert "TypeError" in response.content.decode()
    else:
        assert response.json() == {"title": "Internal Server Error", "status": 500}


async def test_tokens(client_of_ada: ApiClient, ada: Any) -> None:
    client = AsyncClient()
    refused = await client.get("/api/notes")
    assert refused.status_code == 401
    assert refused["WWW-Authenticate"] == "Bearer"
    assert (await client_of_ada.send("get", "notes")).status_code == 200
    await client.aforce_login(ada)
    for wrong in ("wrong", client_of_ada.token.digest):
        headers = {"Authorization": f"Bearer {wrong}"}
        assert (await client.get("/api/notes", headers=headers)).status_code == 401
    ada.is_active = False
    await ada.asave()
    assert (await client_of_ada.send("get", "notes")).status_code == 401
    ada.is_active = True
    await ada.asave()
    assert (await client_of_ada.send("get", "notes")).status_code == 200
    await client_of_ada.token.adelete()
    assert (await client_of_ada.send("get", "notes")).status_code == 401


async def test_session(ada: Any) -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    await client.aforce_login(ada)
    assert (await client.get("/api/notes")).status_code == 200
    refused = await client.post("/api/notes", NOTE, "application/json")
    assert refused.status_code == 403
    assert refused["Content-Type"] == "application/problem+json"
    await client.get("/tokens/")  # sets the cookie
    headers = {"X-CSRFToken": client.cookies["csrftoken"].value}
    created = await client.post("/api/notes", NOTE, "application/json", headers=headers)
    assert created.status_code == 201


async def test_rate_limit(
    client_of_ada: ApiClient, client_of_bob: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.throttle, "num_requests", 3)
    responses = [await client_of_ada.send("get", "notes") for _ in range(4)]
    assert [response.status_code for response in responses] == [200] * 3 + [429]
    assert responses[-1]["Content-Type"] == "application/problem+json"
    assert 0 < int(responses[-1]["Retry-After"]) <= 60
    assert (await client_of_bob.send("get", "notes")).status_code == 200


class Handler(BaseHTTPRequestHandler):
    """Responds with the path as a JSON string: to /slow after the others, to /large endlessly."""

    responded = threading.Semaphore(0)

    def do_GET(self) -> None:
        body = json.dumps(self.path)
        if self.path == "/slow":
            threading.Event().wait(3)
        elif self.path == "/nan":
            body = "NaN"
        elif self.path == "/large":
            body = f'"{"x" * upstreams.MAX_BODY_BYTES}"'
        status = 302 if self.path == "/moved" else 500 if self.path == "/broken" else 200
        try:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())
        except OSError:  # the client has disconnected
            pass

    def log_message(self, *args: object) -> None:
        pass


class Upstream(ThreadingHTTPServer):
    # By default, the backlog is five connections, and another one is retried after a second.
    request_queue_size = 20


@pytest.fixture
def upstream() -> Iterator[str]:
    with Upstream(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_upstreams(
    client_of_ada: ApiClient, upstream: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "TIMEOUT_SECONDS", 1)
    answers = {
        f"{upstream}/a": ("/a", ""),
        f"{upstream}/slow": (None, "TimeoutError"),
        f"{upstream}/slow?2": ("/slow?2", ""),
        f"{upstream}/moved": (None, "HTTPStatusError"),
        f"{upstream}/broken": (None, "HTTPStatusError"),
        f"{upstream}/large": (None, "ValueError"),
        f"{upstream}/nan": (None, "ValueError"),
        "http://127.0.0.1:1/": (None, "ConnectError"),
    }
    settings.API_UPSTREAMS = list(answers)
    response = await client_of_ada.send("get", "upstreams")
    got = {answer["url"]: (answer["data"], answer["error"]) for answer in response.json()}
    assert got == answers
    assert all(answer["milliseconds"] < 2000 for answer in response.json())


def test_pages(client: Client, ada: Any, bob: Any) -> None:
    assert "http://testserver/api/notes" in client.get("/").text
    assert client.get("/tokens/").status_code == 302
    client.force_login(ada)
    assert client.get("/tokens/").status_code == 200
    page = client.post("/tokens/", {"name": "laptop"})
    token = Token.objects.get()
    found = re.search(r'id="secret">([\w-]{43})<', page.text)
    assert found and page["Cache-Control"].count("no-store")
    headers = {"Authorization": f"Bearer {found[1]}"}
    assert Client(headers=headers).get("/api/notes").status_code == 200
    page = client.get("/tokens/")
    assert "laptop" in page.text
    assert found[1] not in page.text
    other = Client()
    other.force_login(bob)
    assert "laptop" not in other.get("/tokens/").text
    path = reverse("revoke_token", args=[token.id])
    other.post(path)
    assert Token.objects.exists()
    assert client.get(path).status_code == 405
    assert "was revoked" in client.post(path, follow=True).text
    assert Client(headers=headers).get("/api/notes").status_code == 401


def test_admin(client: Client, ada: Any, bob: Any) -> None:
    client.force_login(ada)
    form = {"user": bob.id, "name": "laptop"}
    page = client.post(reverse("admin:api_token_add"), form)
    found = re.search(r'id="secret">([\w-]{43})<', page.text)
    assert found
    token = Token.objects.get()
    headers = {"Authorization": f"Bearer {found[1]}"}
    assert Client(headers=headers).get("/api/notes").status_code == 200
    for name, args in (("changelist", []), ("change", [token.id]), ("history", [token.id])):
        assert found[1] not in client.get(reverse(f"admin:api_token_{name}", args=args)).text
    client.post(reverse("admin:api_token_delete", args=[token.id]), {"post": "yes"})
    assert Client(headers=headers).get("/api/notes").status_code == 401


def test_command(ada: Any) -> None:
    output = StringIO()
    call_command("create_token", "ada", name="ci", stdout=output)
    headers = {"Authorization": f"Bearer {output.getvalue().strip()}"}
    assert Client(headers=headers).get("/api/notes").status_code == 200
    with pytest.raises(CommandError, match="There is no user 'eve'"):
        call_command("create_token", "eve")


def test_documentation(client: Client) -> None:
    page = client.get(reverse("api:openapi-view")).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    scripts = re.findall(r"<script\b([^>]*)>", page)
    assert scripts
    assert all("src=" in script or "application/json" in script for script in scripts)
    schema = client.get(reverse("api:openapi-json")).json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["security"] == [{"TokenAuth": []}, {"SessionAuth": []}]
            assert {"401", "422", "429"} <= operation["responses"].keys()
            assert ("404" in operation["responses"]) == ("{" in path)
