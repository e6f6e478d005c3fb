"""Tests of the accounts, the health checks and the ASGI core. The apps have their own tests."""

import asyncio
import logging
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from asgiref.typing import ASGIReceiveEvent, ASGISendEvent
from axes.helpers import get_client_ip_address
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth import aauthenticate, authenticate, get_user, get_user_model, login
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core import signals
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.handlers import base, exception
from django.core.handlers.asgi import ASGIHandler
from django.core.mail import EmailMessage
from django.db import OperationalError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.security import SecurityMiddleware
from django.template import Context, Template, loader
from django.template.utils import get_app_template_dirs
from django.templatetags.static import StaticNode
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.urls import get_script_prefix, is_valid_path, set_script_prefix
from django.urls.resolvers import RegexPattern, RoutePattern
from django.utils import timezone
from pytest_django import Settings

from my_site.serving import deferred_calls, pubsub, static, transport
from my_site.serving.asgi_types import ASGIApplication, Receive, Scope, Send
from my_site.serving.headers import CacheControlMiddleware
from my_site.serving.limits import BodyLimitMiddleware
from my_site.serving.proxy import ProxyHeadersMiddleware
from my_site.serving.pubsub import (
    PayloadTooLarge,
    publish,
    publish_sync,
    subscribe,
)
from my_site.serving.uploads import serve_upload


def test_files_of_tests_are_temporary(tmp_path: Path) -> None:
    """A test can change no other files, whatever way it or the code under test tries."""
    default_storage.save("folder/saved", ContentFile(b""))
    Path("folder/opened").touch()
    assert {path.name for path in tmp_path.joinpath("folder").iterdir()} == {"saved", "opened"}
    opened = Path("folder/opened")
    for folder in (settings.BASE_DIR, Path(settings.BASE_DIR.anchor)):
        path = folder / "refused"
        for change in (
            path.touch,
            path.mkdir,
            path.unlink,
            path.rmdir,
            partial(shutil.rmtree, path),
            partial(opened.rename, path),
            partial(path.symlink_to, opened),
            partial(path.hardlink_to, opened),
        ):
            with pytest.raises(PermissionError, match="A test tried to change"):
                change()


async def test_livez(async_client: AsyncClient, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["example.com"]
    response = await async_client.get("/livez", headers={"host": "10.0.0.7:8000"})
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "failing": []}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_readyz(client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "failing": []}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_readyz_without_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cursor(*args: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(connection, "cursor", no_cursor)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["failing"] == ["database default"]


@pytest.mark.django_db
def test_requests_are_timed(
    client: Client, caplog: pytest.LogCaptureFixture, settings: Settings
) -> None:
    settings.SERVER_TIMING = True
    caplog.set_level(logging.INFO)
    start = perf_counter()
    response = client.get("/a%0Along%0Apath/")
    passed = 1000 * (perf_counter() - start)
    assert 0 < float(response.headers["Server-Timing"].removeprefix("app;dur=")) <= passed + 0.1
    assert f"GET /a%0Along%0Apath/ {response.status_code}" in caplog.text
    settings.SERVER_TIMING = False
    assert "Server-Timing" not in client.get("/no-such-page/").headers


@pytest.mark.parametrize(
    ("headers", "cookie", "cache_control"),
    [
        ({}, "", None),
        ({"Cache-Control": "max-age=60"}, "", "max-age=60"),
        ({"Vary": "Accept-Language"}, "", None),
        ({"Vary": "Accept-Language, cookie"}, "", "private"),
        ({}, "theme=dark", "private"),
        ({"Vary": "Cookie", "Cache-Control": "max-age=60"}, "", "max-age=60, private"),
        ({"Vary": "Cookie", "Cache-Control": "public, max-age=60"}, "", "public, max-age=60"),
        ({"Vary": "Cookie", "Cache-Control": "s-maxage=60"}, "", "s-maxage=60"),
        ({"Vary": "Cookie", "Cache-Control": "No-Store"}, "", "No-Store"),
    ],
)
async def test_what_shared_caches_may_store(
    headers: dict[str, str],
    cookie: str,
    cache_control: str | None,
    rf: RequestFactory,
    async_rf: AsyncRequestFactory,
) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        response = HttpResponse(headers=headers)
        response.cookies.load(cookie)
        return response

    async def async_view(request: HttpRequest) -> HttpResponse:
        return view(request)

    middleware: Any = CacheControlMiddleware
    responses = middleware(view)(rf.get("/")), await middleware(async_view)(async_rf.get("/"))
    assert [response.get("Cache-Control") for response in responses] == 2 * [cache_control]


@pytest.mark.django_db
@pytest.mark.parametrize("sent", ["edge-7f:3/a=", "no spaces", "x" * 129, ""])
async def test_request_id(async_client: AsyncClient, sent: str) -> None:
    response = await async_client.get("/no-such-page/", headers={"X-Request-ID": sent})
    taken = response.headers["X-Request-ID"]
    assert taken == sent if sent.startswith("edge") else re.fullmatch("[0-9a-f]{16}", taken)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client", "scheme"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9", "https"),
        ("10.0.0.1", "192.0.2.1, 203.0.113.9, 10.0.0.2", "203.0.113.9", "https"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9", "https"),
        ("10.0.0.1", "2001:db8::9", "2001:db8::9", "https"),
        ("10.0.0.1", "[2001:db8::9]:4711, ", "2001:db8::9", "https"),
        ("10.0.0.1", "192.0.2.1, unknown, 10.0.0.2", "10.0.0.2", "https"),
        ("203.0.113.9", "192.0.2.1", "203.0.113.9", "http"),
        ("unix:", "192.0.2.1", "unix:", "http"),
    ],
)
async def test_headers_of_proxies(peer: str, forwarded_for: str, client: str, scheme: str) -> None:
    seen = await forwarded(["10.0.0.0/8"], (peer, 1234), forwarded_for)
    assert (seen["client"][0], seen["scheme"]) == (client, scheme)


async def test_trusting_every_peer() -> None:
    """Only the address that the proxy added is used: the client may have sent the others."""
    seen = await forwarded(["*"], ("10.0.0.1", 1234), "192.0.2.1, 203.0.113.9")
    assert (seen["client"][0], seen["scheme"]) == ("203.0.113.9", "https")
    seen = await forwarded(["*"], None, "203.0.113.9")  # over a Unix socket
    assert (seen["client"][0], seen["scheme"]) == ("203.0.113.9", "https")


async def forwarded(
    trusted: list[str],
    client: tuple[str, int] | None,
    forwarded_for: str,
    scope_type: str = "http",
    scheme: str = "https",
) -> dict[str, Any]:
    """Return the scope that the application gets."""
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)

    scope: Any = {
        "type": scope_type,
        "scheme": "ws" if scope_type == "websocket" else "http",
        "client": client,
        "headers": [
            (b"x-forwarded-for", forwarded_for.encode()),
            (b"x-forwarded-proto", scheme.encode()),
        ],
    }
    unused: Any = None
    await ProxyHeadersMiddleware(app, trusted=trusted)(scope, unused, unused)
    return seen


@pytest.mark.parametrize(
    ("scope_type", "sent", "scheme"),
    [
        ("http", "https", "https"),
        ("http", "wss", "https"),
        ("http", "http", "http"),
        ("http", "nonsense", "http"),
        ("websocket", "https", "wss"),
        ("websocket", "wss", "wss"),
        ("websocket", "http", "ws"),
        ("lifespan", "https", "http"),
    ],
)
async def test_scheme_behind_a_proxy(scope_type: str, sent: str, scheme: str) -> None:
    seen = await forwarded(["*"], ("10.0.0.1", 1234), "203.0.113.9", scope_type, sent)
    assert seen["scheme"] == scheme


@pytest.mark.parametrize(
    ("length", "parts", "status"),
    [
        (b"4", [4], 200),
        (None, [4, 6], 200),
        (b"10", [10], 200),
        (b"nonsense", [10], 200),  # the server rejects it
        (b"11", [], 413),
        (None, [11], 413),
        (None, [5, 5, 1], 413),
    ],
)
async def test_limit_on_bodies(length: bytes | None, parts: list[int], status: int) -> None:
    sizes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (event := await receive())["type"] == "http.request":
            sizes.append(len(event["body"]))
            if not event["more_body"]:
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": [],
                        "trailers": False,
                    }
                )
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                break

    events: list[ASGIReceiveEvent] = [
        {"type": "http.request", "body": b"x" * part, "more_body": True} for part in parts
    ]
    events.append({"type": "http.request", "body": b"", "more_body": False})
    headers = [(b"content-length", length)] if length else []
    sent = await communicate(BodyLimitMiddleware(app, limit=10), events, headers=headers)
    assert [event["type"] for event in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == status
    assert sum(sizes) <= 10


async def test_limit_on_bodies_alone() -> None:
    """WebSocket and lifespan scopes, which may lack headers, reach the application unchanged."""
    for kind in ("websocket", "lifespan"):
        assert await communicate(BodyLimitMiddleware(no_file, limit=10), [], type=kind) == [NO_FILE]


async def communicate(
    application: ASGIApplication, events: list[ASGIReceiveEvent], **scope: object
) -> list[Any]:
    """Return what the application sends to a client that sends these events, and then waits."""
    sent: list[Any] = []

    async def receive() -> ASGIReceiveEvent:
        return events.pop(0) if events else await asyncio.Future()

    async def send(event: ASGISendEvent) -> None:
        sent.append(event)

    http_scope: Any = {"type": "http", "method": "GET", "scheme": "http"} | scope
    await application(http_scope, receive, send)
    return sent


NO_FILE: Any = {"type": "not a file"}


async def no_file(scope: Scope, receive: Receive, send: Send) -> None:
    await send(NO_FILE)


@pytest.fixture
def static_files(settings: Settings, tmp_path: Path) -> ASGIApplication:
    """An application that serves two files, one smaller and one larger than a chunk."""
    settings.DEBUG = False
    settings.STATIC_ROOT = tmp_path
    for name, size in (("small.css", 10), ("large.css", 3 * static.CHUNK_BYTES)):
        tmp_path.joinpath(name).write_bytes(b"x" * size)
    return static.serve_static_files(no_file)


@pytest.mark.parametrize(
    ("method", "path", "size"),
    [
        ("GET", "/static/small.css", 10),
        ("HEAD", "/static/small.css", 0),
        ("GET", "/static/large.css", 3 * static.CHUNK_BYTES),
    ],
)
async def test_static_files(
    static_files: ASGIApplication, method: str, path: str, size: int
) -> None:
    """Files are sent in parts of limited size, and the last one says that no more follow."""
    request: ASGIReceiveEvent = {"type": "http.request", "body": b"", "more_body": False}
    start, *parts = await communicate(static_files, [request], method=method, path=path, headers=[])
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert b"access-control-allow-origin" not in dict(start["headers"])
    sizes = [len(part.get("body", b"")) for part in parts]
    assert sum(sizes) == size
    assert max(sizes) <= 65536
    assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_security_headers_of_static_files(
    scheme: str, static_files: ASGIApplication, settings: Settings
) -> None:
    settings.SECURE_HSTS_SECONDS = 60
    [start, _] = await communicate(
        static.serve_static_files(no_file),
        [],
        path="/static/small.css",
        headers=[],
        scheme=scheme,
    )
    headers = dict(start["headers"])
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers.get(b"strict-transport-security", b"").startswith(b"max-age=60") == (
        scheme == "https"
    )


async def test_static_file_for_a_client_that_left(static_files: ASGIApplication) -> None:
    """The rest of the body is not read."""
    sent = await communicate(
        static_files, [{"type": "http.disconnect"}], path="/static/large.css", headers=[]
    )
    assert sum(len(event.get("body", b"")) for event in sent) <= 2 * static.CHUNK_BYTES


async def test_what_is_no_static_file(static_files: ASGIApplication) -> None:
    scopes: list[dict[str, str]] = [
        {"path": "/"},
        {"path": "/static/small.css", "type": "websocket"},
    ]
    for scope in scopes:
        assert await communicate(static_files, [], **scope) == [NO_FILE]


def test_static_files_that_were_not_collected(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG = False
    settings.STATIC_ROOT = tmp_path / "staticfiles"
    assert static.serve_static_files(no_file) is no_file
    assert "run `manage.py collectstatic`" in caplog.text


def test_static_files_while_debugging(settings: Settings) -> None:
    settings.DEBUG = True
    assert isinstance(static.serve_static_files(no_file), ASGIStaticFilesHandler)


def test_static_files_of_templates_exist() -> None:
    """In production, a template that names a missing static file causes a server error."""
    missing = []
    own = settings.BASE_DIR / "my_site" / "templates"
    for folder in [own, *get_app_template_dirs("templates")]:
        if "site-packages" in folder.parts:
            continue
        for path in folder.rglob("*.html"):
            template = Template(path.read_text(encoding="utf-8"))
            for node in template.nodelist.get_nodes_by_type(StaticNode):
                assert isinstance(node, StaticNode)
                if not node.path.is_var and not finders.find(name := node.path.resolve(Context())):
                    missing.append(f"{path}: {name}")
    assert missing == []


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "shown"), [("photo.png", True), ("page.html", False), ("drawing.svg", False)]
)
def test_uploaded_files(name: str, shown: bool, rf: RequestFactory) -> None:
    default_storage.save(f"folder/{name}", ContentFile(b"uploaded"))
    response = serve_upload(rf.get("/"), f"folder/{name}")
    assert response.headers["Content-Security-Policy"].endswith("sandbox")
    assert response.headers["Content-Disposition"].startswith("inline" if shown else "attachment")
    response.close()


def test_error_pages(rf: RequestFactory) -> None:
    """Two pages get no context, and none needs a database unless the user is signed in."""
    for name in ("400.html", "500.html"):
        assert "<h1>" in loader.render_to_string(name)
    for name in ("403.html", "403_csrf.html", "404.html"):
        assert "Go to the home page" in loader.render_to_string(name, request=rf.get("/nothing/"))


def test_django_is_as_the_core_expects() -> None:
    """A new Django release may change private API."""
    update = "my_site/serving must follow a change in Django:"
    known = {"reset_queries", "close_old_connections", "close_caches", "reset_urlconf"}
    for signal in (signals.request_started, signals.request_finished):
        receivers = [receiver for some in signal._live_receivers(None) for receiver in some]
        own = {each.__name__ for each in receivers if each.__module__.startswith("django.")}
        assert own <= known, f"{update} it has more receivers of its own"
        assert hasattr(signal, "receivers"), f"{update} signals have no list of receivers"
    steps = "handle read_body listen_for_disconnect create_request run_get_response send_response"
    for name in steps.split():
        assert hasattr(ASGIHandler, name), f"{update} ASGIHandler has no {name}"
    assert hasattr(base, "import_string"), f"{update} middleware is imported differently"
    for name in ("load_middleware", "get_response", "_get_response_async", "resolve_request"):
        assert hasattr(base.BaseHandler, name), f"{update} BaseHandler has no {name}"
    wrapper = exception.convert_exception_to_response(base.BaseHandler().get_response)
    assert hasattr(wrapper, "__wrapped__"), f"{update} middleware is wrapped differently"
    assert hasattr(exception, "response_for_exception"), f"{update} no response_for_exception"
    for pattern, name in ((RoutePattern("a/"), "_route"), (RegexPattern("a/"), "_regex")):
        assert name in vars(pattern), f"{update} {type(pattern).__name__} has no {name}"
    closers = hasattr(HttpResponseBase(), "_resource_closers")
    assert closers, f"{update} responses have no _resource_closers"
    acall = SecurityMiddleware.__acall__
    assert iscoroutinefunction(acall), f"{update} middleware has no async __acall__"
    assert "CONN_MAX_AGE" in connections["default"].settings_dict, f"{update} no CONN_MAX_AGE"
    for name in ("in_atomic_block", "execute_wrappers", "health_check_done", "close_at"):
        assert hasattr(connections["default"], name), f"{update} connections have no {name}"
    for name in ("get_new_connection", "connect"):
        assert hasattr(connections.create_connection("default"), name), f"{update} no {name}"


async def take(payloads: pubsub.Subscription, count: int) -> list[str | None]:
    async with asyncio.timeout(10):
        return [await anext(payloads) for _ in range(count)]


@pytest.mark.django_db
async def test_publish_and_subscribe() -> None:
    """Messages are sent on commit, and are lost on rollback."""

    def publish_in_transactions() -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            publish_sync("news", "rolled back")
            raise ZeroDivisionError
        with transaction.atomic():
            publish_sync("news", "twice\nin one transaction")
            publish_sync("news", "twice\nin one transaction")

    async with subscribe("news") as first, subscribe("news") as second, subscribe("weather"):
        assert await take(first, 1) == await take(second, 1) == [None]
        async with subscribe("news") as third:
            assert await take(third, 1) == [None]
        await publish("weather", "rain")
        await sync_to_async(publish_in_transactions)()
        await publish("news", "last")
        expected = ["twice\nin one transaction"] * 2 + ["last"]
        assert await take(first, 3) == await take(second, 3) == expected
        assert third.waiting.empty()
        [receiver] = pubsub.receivers.values()
    assert pubsub.receivers == {}
    await asyncio.wait([receiver.task], timeout=5)
    assert receiver.task.cancelled()


@pytest.mark.django_db
async def test_messages_of_limited_size() -> None:
    async with subscribe("news") as payloads:
        assert await take(payloads, 1) == [None]
        await publish("news", "x" * 7980)
        with pytest.raises(PayloadTooLarge, match="publish its id"):
            await publish("news", "é" * 4000)
        with pytest.raises(ValueError, match="must not contain line breaks"):
            await publish("news\n", "")
        assert await take(payloads, 1) == ["x" * 7980]


def test_subscriber_that_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow subscriber gets None instead of the messages that it missed."""
    monkeypatch.setattr(pubsub, "MAX_WAITING_PAYLOADS", 2)
    payloads = pubsub.Subscription()
    for number in range(4):
        payloads.put(str(number))
    assert async_to_sync(take)(payloads, 2) == [None, "3"]


async def test_outage_of_what_sends_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outages = iter([OperationalError("away"), OperationalError("still away")])

    async def receive() -> AsyncIterator[str | None]:
        if error := next(outages, None):
            raise error
        yield None
        yield "news\n0\nback"
        raise OperationalError("away again")

    monkeypatch.setattr(transport, "receive", receive)
    monkeypatch.setattr(pubsub, "MIN_RETRY_SECONDS", 0)
    async with subscribe("news") as payloads:
        assert await take(payloads, 4) == [None, "back", None, "back"]
    for message in ("away", "still away", "away again"):
        assert f"retrying in 0 s: {message}" in caplog.text


@pytest.fixture
def user(settings: Settings) -> Any:  # an instance of AUTH_USER_MODEL
    # The default hasher is slow.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return get_user_model().objects.create_user("ada", "ada@example.com", "analytical-engine")


@pytest.mark.django_db
def test_sign_in_and_out(client: Client, user: Any) -> None:
    form = {"username": "ada", "password": "analytical-engine"}
    for path, destination in (("login", "LOGIN_REDIRECT_URL"), ("logout", "LOGOUT_REDIRECT_URL")):
        response = client.post(f"/accounts/{path}/", form)
        assert response.status_code == 302
        assert response["Location"] == getattr(settings, destination)
        assert (get_user(client) == user) == (path == "login")


@pytest.mark.django_db
def test_signed_in_users_are_sent_on(client: Client, user: Any) -> None:
    """The redirect does not lead to a page that may have rejected the user."""
    client.force_login(user)
    sent = client.get("/accounts/login/")
    assert (sent.status_code, sent.headers["Location"]) == (302, settings.LOGIN_REDIRECT_URL)
    page = client.get("/accounts/login/?next=/accounts/")
    assert "signed in as <strong>ada</strong>" in page.text
    assert page.text.count('name="username"') == 1


@pytest.mark.django_db
def test_account_page(client: Client, user: Any) -> None:
    assert client.get("/accounts/").headers["Location"].endswith("?next=/accounts/")
    client.force_login(user)
    page = client.get("/accounts/").text
    assert "ada@example.com" in page
    assert 'href="/accounts/password_change/"' in page


@pytest.fixture
def open_sign_up() -> None:
    if not is_valid_path("/accounts/register/"):
        pytest.skip("nobody can sign up")


def sign_up(client: Client, username: str, path: str = "/accounts/register/") -> Any:
    form = {"username": username, "email": "ada@example.com"}
    return client.post(path, form | dict.fromkeys(["password1", "password2"], "difference"))


@pytest.mark.usefixtures("open_sign_up")
@pytest.mark.django_db
def test_sign_up(client: Client, user: Any) -> None:
    assert "already exists" in sign_up(client, "ADA").text
    assert get_user(client) != user
    # An existing address is not an error, which would reveal that it has an account.
    assert sign_up(client, "grace").headers["Location"] == settings.LOGIN_REDIRECT_URL
    new = get_user(client)
    assert (new.get_username(), new.is_staff, new.is_superuser) == ("grace", False, False)
    assert new.check_password("difference")


@pytest.mark.usefixtures("open_sign_up")
@pytest.mark.django_db
@pytest.mark.parametrize(
    ("target", "location"), [("/accounts/", "/accounts/"), ("https://evil.example/", "/")]
)
def test_sign_up_leads_back(target: str, location: str, client: Client, user: Any) -> None:
    assert sign_up(client, "grace", f"/accounts/register/?next={target}")["Location"] == location


@pytest.mark.usefixtures("open_sign_up")
@pytest.mark.django_db
def test_sign_ups_are_limited(client: Client, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accounts.views.MAX_SIGN_UPS_PER_HOUR", 3)
    cache.clear()
    answers = [sign_up(Client(), name).status_code for name in ("ada", "b", "c", "d")]
    assert answers == [200, 302, 302, 429]


@pytest.mark.django_db
def test_wrong_password(client: Client, user: Any) -> None:
    page = client.post("/accounts/login/", {"username": "ada", "password": "wrong"})
    assert page.status_code == 200
    assert "errorlist" in page.text


@pytest.mark.django_db
def test_change_password(client: Client, user: Any) -> None:
    assert client.get("/accounts/password_change/").status_code == 302
    client.force_login(user)
    new = dict.fromkeys(["new_password1", "new_password2"], "difference")
    new["old_password"] = "analytical-engine"
    assert "has been changed" in client.post("/accounts/password_change/", new, follow=True).text
    user.refresh_from_db()
    assert user.check_password("difference")


@pytest.mark.django_db
@pytest.mark.parametrize("password", ["ada@example", "q7-Xk!w", "password1", "7391048265"])
def test_weak_passwords(client: Client, user: Any, password: str) -> None:
    """The passwords are similar to the email address, too short, common, and only digits."""
    client.force_login(user)
    new = dict.fromkeys(["new_password1", "new_password2"], password)
    new["old_password"] = "analytical-engine"
    assert "errorlist" in client.post("/accounts/password_change/", new).text
    user.refresh_from_db()
    assert user.check_password("analytical-engine")


@pytest.mark.django_db
def test_sign_in_attempts_are_limited(client: Client, user: Any, settings: Settings) -> None:
    settings.AXES_FAILURE_LIMIT = 3
    form = {"username": "ada", "password": "wrong"}
    answers = [client.post("/accounts/login/", form).status_code for _ in range(3)]
    assert answers == [200, 200, 429]
    page = client.post("/accounts/login/", form | {"password": "analytical-engine"})
    assert page.status_code == 429
    assert "too many wrong passwords" in page.text
    form = {"username": "grace", "password": "wrong"}
    assert client.post("/accounts/login/", form).status_code == 200


@pytest.mark.django_db
def test_sign_in_is_possible_again_later(client: Client, user: Any, settings: Settings) -> None:
    settings.AXES_FAILURE_LIMIT = 3
    form = {"username": "ada", "password": "analytical-engine"}
    for _ in range(3):
        client.post("/accounts/login/", form | {"password": "wrong"})
    for waited, status in ((0.9, 429), (1.1, 302)):
        then = timezone.now() - waited * settings.AXES_COOLOFF_TIME
        AccessAttempt.objects.update(attempt_time=then)
        assert client.post("/accounts/login/", form).status_code == status


@pytest.mark.django_db
def test_sign_in_forgives_earlier_mistakes(client: Client, user: Any, settings: Settings) -> None:
    settings.AXES_FAILURE_LIMIT = 3
    passwords = 2 * ["wrong", "wrong", "analytical-engine"]
    forms = [{"username": "ada", "password": password} for password in passwords]
    answers = [client.post("/accounts/login/", form).status_code for form in forms]
    assert answers == 2 * [200, 200, 302]


@pytest.mark.django_db
def test_sign_in_attempts_for_all_names_are_limited(
    client: Client, user: Any, settings: Settings
) -> None:
    """Attempts from one address are counted. Signing in as another user keeps the count."""
    settings.AXES_FAILURE_LIMIT, settings.ADDRESS_FAILURE_LIMIT = 3, 6
    good = {"username": "ada", "password": "analytical-engine"}
    names = ["grace", "joan", "mary", "katherine", "hedy", "ada"]
    answers = []
    for name in names:
        wrong = {"username": name, "password": "wrong"}
        answers.append(client.post("/accounts/login/", wrong).status_code)
        if name == "hedy":
            assert client.post("/accounts/login/", good).status_code == 302
    assert answers == [200] * 5 + [429]
    assert client.post("/accounts/login/", good).status_code == 429
    assert client.post("/accounts/login/", good, REMOTE_ADDR="203.0.113.9").status_code == 302


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("", "::"),
        ("unix:", "::"),
    ],
)
def test_what_counts_as_one_client(address: str, network: str, rf: RequestFactory) -> None:
    assert get_client_ip_address(rf.post("/", REMOTE_ADDR=address)) == network


@pytest.mark.django_db
def test_async_sign_in_is_limited(rf: RequestFactory, user: Any, settings: Settings) -> None:
    settings.AXES_FAILURE_LIMIT = 3
    sign_in = async_to_sync(aauthenticate)
    good = {"username": "ada", "password": "analytical-engine"}
    assert sign_in(rf.post("/"), **good) == user
    for _ in range(3):
        assert sign_in(rf.post("/"), **good | {"password": "wrong"}) is None
    assert sign_in(rf.post("/"), **good) is None


@pytest.mark.django_db
def test_passwords_without_a_request(client: Client, user: Any, settings: Settings) -> None:
    """Calls without a request, as in tests and API libraries, have no client address to limit."""
    settings.AXES_FAILURE_LIMIT = 3
    for _ in range(5):
        assert authenticate(username="ada", password="wrong") is None
        assert async_to_sync(aauthenticate)(username="ada", password="wrong") is None
    assert authenticate(username="ada", password="analytical-engine") == user
    assert client.login(username="ada", password="analytical-engine")


@pytest.mark.django_db
def test_sign_in_of_a_new_user(rf: RequestFactory, client: Client) -> None:
    """A sign-up view calls `login` with a user that no backend has returned."""
    request = rf.post("/")
    request.session = client.session
    user = get_user_model().objects.create_user("ada")
    login(request, user)
    assert get_user(request) == user


@pytest.fixture
def send_now(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Send emails during the request instead of after it."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()
    monkeypatch.setattr("accounts.forms.defer", lambda call: call())


@pytest.mark.django_db
def test_reset_password(
    client: Client, user: Any, mailoutbox: list[EmailMessage], send_now: None
) -> None:
    client.post("/accounts/password_reset/", {"email": "ada@example.com"})
    found = re.search(r"http://testserver(/\S+)", str(mailoutbox[0].body))
    assert found
    link = found[1]
    form = client.get(link, follow=True)
    assert "Set password" in form.text
    new = dict.fromkeys(["new_password1", "new_password2"], "difference")
    assert "has been set" in client.post(form.request["PATH_INFO"], new, follow=True).text
    assert "already used" in client.get(link, follow=True).text


def test_a_deferred_call_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deferred_calls, "DELAY_SECONDS", 0)
    deferred_calls.defer(lambda: 1 / 0)
    deferred_calls.wait_for_deferred_calls()
    assert "ZeroDivisionError" in caplog.text


def test_deferred_calls_have_a_context_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred_calls, "DELAY_SECONDS", 0)
    seen: list[str] = []
    for call in (partial(set_script_prefix, "/other/"), lambda: seen.append(get_script_prefix())):
        deferred_calls.defer(call)
        deferred_calls.wait_for_deferred_calls()
    assert seen == ["/"]


@pytest.mark.django_db
def test_mails_to_one_user_are_limited(
    client: Client, user: Any, mailoutbox: list[EmailMessage], send_now: None
) -> None:
    ask = {"email": "ADA@example.com"}
    answers = [client.post("/accounts/password_reset/", ask).status_code for _ in range(5)]
    assert answers == [302] * 5
    assert len(mailoutbox) == 3


@pytest.mark.django_db
def test_requests_for_mails_are_limited(
    client: Client, mailoutbox: list[EmailMessage], send_now: None
) -> None:
    """Unknown addresses are limited, too, so that the responses are the same."""
    asks = [{"email": f"nobody-{number}@example.com"} for number in range(31)]
    answers = [client.post("/accounts/password_reset/", ask).status_code for ask in asks]
    assert answers == [302] * 30 + [429]
    elsewhere = client.post("/accounts/password_reset/", asks[0], REMOTE_ADDR="203.0.113.9")
    assert elsewhere.status_code == 302
    assert mailoutbox == []
