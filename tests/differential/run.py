"""Send random requests to the application, and print its responses.

    python -m differential.run MODULE SEED REQUESTS

MODULE has the `application`. Random values (tokens, session keys, ids, times) are removed from responses. Each line is
the JSON of a request and its response.
"""

import asyncio
import gzip
import hashlib
import importlib
import json
import logging
import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from http.cookies import SimpleCookie
from typing import Any

from django.core import signals

Message = dict[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

METHODS = ["GET"] * 8 + ["POST"] * 6 + ["HEAD"] * 2 + ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
OTHER_PATHS = [
    "/", "/livez", "/readyz", "/accounts/login/", "/accounts/logout/", "/accounts/password_change/", "/admin/",
    "/admin/login/", "/admin/accounts/user/", "/admin/accounts/user/add/", "/static/site.css", "/static/missing.css",
    "/missing", "/missing/", "//double//slash/", "/differential/with/12/word/", "/differential/with/x/word/",
    "/differential/echo", "/differential/async_echo", "/differential/without_slash", "/differential/without_slash/",
    "/differential/é/", "/differential/%2e%2e/", "/differential/a b/", "/" + "long/" * 60,
]  # fmt: skip
# More often: there is something to see only while a user is signed in.
USER_PATHS = ["/differential/show_user/"] * 20 + ["/differential/change_password_elsewhere/"] * 5
VALUES = [
    "",
    "1",
    "404",
    "a b",
    "ü",
    "\U0001f9c0",
    "x" * 300,
    "<b>",
    "/next/",
    "//evil.example/",
    "https://example.com/",
]
HEADERS = [
    ("accept-language", ["de", "en-us,de;q=0.5", "xx", "*"]),
    ("accept-encoding", ["gzip", "br, gzip;q=0.5", "identity", ""]),
    ("content-type", ["text/plain", "application/json; charset=utf-16", "nonsense", "text/plain; charset=nonsense"]),
    ("host", ["example.com", "example.com:8443", "www.example.com", "evil.example", "bad host", ""]),
    ("if-match", ['"abc"', '"other"', "*"]),
    ("if-modified-since", ["Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2025 00:00:00 GMT", "nonsense"]),
    ("if-none-match", ['"abc"', 'W/"abc"', '"other"', "*"]),
    ("origin", ["https://example.com", "https://evil.example", "null"]),
    ("range", ["bytes=0-9", "bytes=9-", "nonsense"]),
    ("referer", ["https://example.com/", "https://evil.example/", "nonsense", ""]),
    ("user-agent", ["Mozilla/5.0", "é".encode().decode("latin-1")]),
    ("x-csrftoken", ["x" * 64, "short"]),
    ("x-do", ["answer", "break", "urlconf", "process_view", "process_exception", "process_request"]),
    ("x-forwarded-for", ["203.0.113.9", "nonsense, 203.0.113.9"]),
    ("x-one", ["1", "2"]),
]
# These differ between responses to the same request.
RANDOM_HEADERS = {b"age", b"date", b"server-timing", b"x-request-id", b"expires"}
TOKEN = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Za-z]{64}(?![0-9A-Za-z])|(?<=nonce-)[^']+|(?<=nonce=\")[^\"]+")
RANDOM_COOKIES = {"sessionid", "csrftoken", "signed", "messages"}

SIGNALS = ["request_started", "request_finished", "got_request_exception"]
receivers: list[Callable[..., None]] = []  # signals have weak references to them
seen: list[list[str]] = []  # signals and log records of the current request


class Client:
    """Acts as a browser: stores cookies, sends its CSRF token most of the time, and is sometimes signed in."""

    def __init__(self, application: Application, seed: int) -> None:
        self.application = application
        self.chance = random.Random(seed)
        self.paths = [*self.differential_paths(), *OTHER_PATHS * 2, *USER_PATHS]
        self.cookies: dict[str, str] = {}

    @staticmethod
    def differential_paths() -> list[str]:
        from .views import VIEWS

        return [f"/differential/{name}/" for name in VIEWS]

    async def send_request(self) -> Message:
        request = self.make_request()
        request["cookies"] = sorted(self.cookies)
        answer = await call(self.application, self.build_scope(request), [*self.body_messages(request)])
        self.store_cookies(answer)
        request["body"] = f"{len(request['body'])} bytes"
        return {"request": request, "answer": normalized(answer, request["method"])}

    def make_request(self) -> Message:
        chance = self.chance
        if chance.random() < 0.02:
            self.cookies.clear()
        if chance.random() < 0.05:
            return self.sign_in(chance.choice(["right", "right", "wrong"]))
        path = chance.choice(self.paths)
        # For HEAD the core does not read streams, so they do not fail.
        method = "GET" if "broken" in path else chance.choice(METHODS)
        headers = [(name, chance.choice(values)) for name, values in HEADERS if chance.random() < 0.08]
        headers += [("cookie", chance.choice(["a=1; b=2", "nonsense", "sessionid=nonsense", "signed=x:y"]))] * (
            chance.random() < 0.05
        )
        body, content_type = self.make_body() if method not in ("GET", "HEAD") or chance.random() < 0.05 else (b"", "")
        if content_type and "content-type" not in dict(headers):
            headers.append(("content-type", content_type))
        return {
            "method": method,
            "path": path,
            "query": self.make_query(),
            "scheme": chance.choice(["https"] * 9 + ["http"]),
            "root_path": chance.choice([""] * 19 + ["/prefix"]),
            "headers": headers,
            "with_token": chance.random() < 0.7,
            "body": body,
            "cut": chance.random() < 0.02,
        }

    def sign_in(self, password: str) -> Message:
        body = f"username=ada&password={password}&next=/differential/echo/".encode()
        headers = [("content-type", "application/x-www-form-urlencoded"), ("origin", "https://example.com")]
        request = {"method": "POST", "path": "/accounts/login/", "query": "", "scheme": "https", "root_path": ""}
        return request | {"headers": headers, "with_token": True, "body": body, "cut": False}

    def make_query(self) -> str:
        kind = self.chance.random()
        if kind < 0.5:
            return ""
        if kind < 0.55:
            return self.chance.choice(["%", "a=%ff&a=2", "=&&=", "q", "é=ü", "a=1;b=2"])
        return f"q={self.chance.choice(VALUES)}"

    def make_body(self) -> tuple[bytes, str]:
        chance = self.chance
        kind = chance.choice(
            ["none", "form", "form", "json", "multipart", "multipart", "broken multipart", "raw", "large"]
        )
        if kind == "none":
            return b"", ""
        if kind == "form":
            pairs = [f"{name}={chance.choice(VALUES)}" for name in ("name", "q", "name")]
            return "&".join(pairs).encode(), "application/x-www-form-urlencoded"
        if kind == "json":
            return json.dumps({"q": chance.choice(VALUES)}).encode(), "application/json"
        if kind == "raw":
            return chance.randbytes(chance.randrange(5000)), "application/octet-stream"
        size = chance.choice([0, 10, 3_000, 70_000, 2_700_000]) if kind != "large" else 2_700_000
        if kind == "large":  # more than DATA_UPLOAD_MAX_MEMORY_SIZE
            return b"name=" + b"x" * size, "application/x-www-form-urlencoded"
        content = b"content " * (size // 8)
        lines = b'--limit\r\nContent-Disposition: form-data; name="name"\r\n\r\nada\r\n--limit\r\nContent-Disposition: '
        lines += b'form-data; name="file"; filename="a \xc3\xbc.txt"\r\nContent-Type: text/plain\r\n\r\n' + content
        end = b"\r\n--limit--\r\n" if kind == "multipart" else b""
        return lines + end, f"multipart/form-data{'; boundary=limit' if end or size else ''}"

    def build_scope(self, request: Message) -> Message:
        headers = {"host": "example.com", **dict(request["headers"])}
        listed = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        if self.cookies:
            pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            listed.append((b"cookie", pairs.encode("latin-1", "replace")))
        if request["with_token"] and "csrftoken" in self.cookies and "x-csrftoken" not in headers:
            listed.append((b"x-csrftoken", self.cookies["csrftoken"].encode()))
            if request["scheme"] == "https" and "referer" not in headers and "origin" not in headers:
                listed.append((b"referer", b"https://example.com/"))
        if request["body"]:
            listed.append((b"content-length", str(len(request["body"])).encode()))
        path = request["root_path"] + request["path"]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request["method"],
            "scheme": request["scheme"],
            "path": path,
            "raw_path": path.encode(),
            "query_string": request["query"].encode(),
            "root_path": request["root_path"],
            "headers": listed,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }

    def body_messages(self, request: Message) -> Iterator[Message]:
        size = self.chance.choice([100, 65536, 10**7]) if len(request["body"]) < 10_000 else 65536
        parts = [request["body"][at : at + size] for at in range(0, len(request["body"]), size)] or [b""]
        for number, part in enumerate(parts, 1):
            if request["cut"] and number == len(parts):
                yield {"type": "http.disconnect"}
            else:
                yield {"type": "http.request", "body": part, "more_body": number < len(parts)}

    def store_cookies(self, answer: Message) -> None:
        for name, value in answer["headers"]:
            if name.lower() == b"set-cookie":
                for key, morsel in SimpleCookie(value.decode("latin-1")).items():
                    if morsel["max-age"] == "0" or morsel["expires"].startswith("Thu, 01 Jan 1970"):
                        self.cookies.pop(key, None)
                    else:
                        self.cookies[key] = morsel.coded_value


async def call(application: Application, scope: Message, messages: list[Message]) -> Message:
    """Return what the application sends, with the signals and log records."""
    seen.clear()
    answer: Message = {"status": None, "headers": [], "body": b"", "error": None, "complete": False}
    never = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await never.wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert answer["status"] is None
            answer.update(status=message["status"], headers=[*message["headers"]])
        else:
            answer["body"] += message.get("body", b"")
            answer["complete"] = not message.get("more_body", False)

    try:
        async with asyncio.timeout(20):
            await application(scope, receive, send)
    except Exception as error:  # noqa: BLE001 (that is what is compared)
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer | {"seen": [*seen]}


def normalized(answer: Message, method: str) -> Message:
    sent = {name.lower(): value for name, value in answer["headers"]}
    body = answer["body"]
    zipped = sent.get(b"content-encoding") == b"gzip"
    if zipped and body:  # Django adds random bytes
        body = gzip.decompress(body) if answer["complete"] else b"(incomplete)"
    random_headers = set(RANDOM_HEADERS)
    if zipped:
        random_headers.add(b"content-length")
    # Unless the view sets it, it is a hash of the body, which may contain a token.
    if sent.get(b"etag") != b'"abc"' and (zipped or not body or TOKEN.search(body)):
        random_headers.add(b"etag")
    headers = []
    for name, value in answer["headers"]:
        if name.lower() in random_headers:
            value = b"*"
        if name.lower() == b"set-cookie":
            value = normalized_cookie(value)
        headers.append([name.decode("latin-1"), TOKEN.sub(b"*", value).decode("latin-1")])
    text = TOKEN.sub(b"*", body).decode("latin-1")
    # Servers send no body for HEAD. Django sends nothing of a sync stream that fails: it reads all of it first.
    if method == "HEAD" or answer["error"]:
        text = ""
    elif len(text) >= 20_000:
        text = f"{len(text)} bytes, {hashlib.sha256(text.encode()).hexdigest()}"
    return answer | {"headers": headers, "body": text}


def normalized_cookie(value: bytes) -> bytes:
    value = re.sub(rb"expires=[^;]+", b"expires=*", value)
    name = value.partition(b"=")[0].decode()
    return re.sub(rb'=("[^"]+"|[^;"]+)', b"=*", value, count=1) if name in RANDOM_COOKIES else value


class RecordHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in ("django", "asyncio", "axes") or record.levelno >= logging.WARNING:
            seen.append([record.name, record.levelname, record.getMessage().split("\n")[0]])


def connect_receivers() -> None:
    """Connect receivers as a project does. With them the core closes no response early."""
    for name in SIGNALS:

        def receive(sender: type, name: str = name, **kwargs: Any) -> None:
            seen.append([name, getattr(sender, "__name__", "")])

        receivers.append(receive)
        getattr(signals, name).connect(receive)


def wrap_signals() -> None:
    """Record signals that only Django itself receives, too."""
    for name in SIGNALS:
        signal = getattr(signals, name)

        def send(
            sender: type, *args: Any, name: str = name, send: Callable[..., Any] = signal.send, **kwargs: Any
        ) -> Any:
            seen.append([name, getattr(sender, "__name__", "")])
            return send(sender, *args, **kwargs)

        async def asend(
            sender: type, *args: Any, name: str = name, asend: Callable[..., Any] = signal.asend, **kwargs: Any
        ) -> Any:
            seen.append([name, getattr(sender, "__name__", "")])
            return await asend(sender, *args, **kwargs)

        signal.send, signal.asend = send, asend


async def main(module: str, seed: int, requests: int) -> None:
    application = importlib.import_module(module).application
    if seed % 2:
        connect_receivers()
    else:
        wrap_signals()
    logging.getLogger().addHandler(RecordHandler())
    client = Client(application, seed)
    for _ in range(requests):
        print(json.dumps(await client.send_request()), flush=True)

    from asgiref.sync import sync_to_async
    from django.contrib.auth import get_user_model
    from django.contrib.sessions.models import Session

    users = await sync_to_async(lambda: sorted(get_user_model().objects.values_list("username", flat=True)))()
    print(json.dumps({"users": users, "sessions": await Session.objects.acount()}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
