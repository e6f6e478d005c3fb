"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import asyncio
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope
from websockets.asyncio.client import connect

from tests.template import CHOICES, Project, Server, free_port

MakeProject = Callable[..., Project]

# Row 1: h2c past a proxy.


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


def sign_in(client: httpx.Client, address: str, name: str, password: str) -> int:
    """The status that the sign-in page answers to this visitor of the proxy."""
    headers = {"X-Forwarded-For": address, "Origin": "https://example.com"}
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/login/").text)[1]
    form = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    return client.post("/accounts/login/", data=form, headers=headers).status_code


@pytest.mark.parametrize(("database", "django_version"), [("sqlite", "6.1"), ("postgresql", "5.2")])
def test_passwords_from_many_addresses_and_for_many_names(
    database: str, django_version: str, production: MakeProject
) -> None:
    """One IPv6 network is one client, so is an IPv4 address in both of its forms, and names are counted together."""
    made = production(database=database, django_version=django_version)
    # Those of Django take most of a second for each password.
    settings = (
        "PASSWORD_HASHERS = [f'django.contrib.auth.hashers.{name}PasswordHasher' for name in ('MD5', 'PBKDF2')]\n"
    )
    with (made.path / "wiki" / "settings.py").open("a") as file:
        file.write(settings)
    with made.served() as running, running.client() as client:
        attempts = [sign_in(client, f"2001:db8:1:2::{n:x}", "grace", f"wrong {n}") for n in range(10)]
        assert attempts == [200] * 9 + [429]
        assert sign_in(client, "2001:db8:1:3::1", "grace", "wrong") == 200

        forms = ("203.0.113.9", "::ffff:203.0.113.9")
        attempts = [sign_in(client, forms[n % 2], "grace", f"wrong {n}") for n in range(10)]
        assert attempts == [200] * 9 + [429]

        # A user of one's own does not start the count anew.
        assert [sign_in(client, forms[n % 2], f"name-{n}", "wrong") for n in range(19)] == [200] * 19
        assert sign_in(client, forms[0], "ada", "analytical-engine") == 302
        assert sign_in(client, forms[0], "one name more", "wrong") == 429
        assert sign_in(client, forms[0], "ada", "analytical-engine") == 429
        assert sign_in(client, "203.0.113.77", "ada", "analytical-engine") == 302
        assert "Traceback" not in running.output


# Row 6: who has an account.


class SlowMailServer:
    """Takes 0.3 s for each mail."""

    def __init__(self) -> None:
        self.recipients: list[str] = []
        self.links: list[str] = []

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        await asyncio.sleep(0.3)
        self.recipients += envelope.rcpt_tos
        self.links += re.findall(r"https://example\.com/\S+", envelope.content.decode())
        return "250 OK"


@pytest.fixture
def mail_server() -> Iterator[tuple[SlowMailServer, str]]:
    handler, port = SlowMailServer(), free_port()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, f"smtp://127.0.0.1:{port}"
    controller.stop()


USERS = [f"user-{number}@example.com" for number in range(10)]
CREATE_USERS = (
    f"for address in {USERS}: User.objects.create(username=address.partition('@')[0], email=address, password='a hash')"
)


def ask_for_mail(client: httpx.Client, address: str) -> float:
    """Ask for a link to set a new password; return how many seconds the response took."""
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/password_reset/").text)[1]
    start = time.perf_counter()
    answer = client.post(
        "/accounts/password_reset/",
        data={"email": address, "csrfmiddlewaretoken": token},
        headers={"Origin": "https://example.com"},
    )
    seconds = time.perf_counter() - start
    assert (answer.status_code, answer.headers["Location"]) == (302, "/accounts/password_reset/done/")
    assert "Server-Timing" not in answer.headers
    return seconds


@pytest.mark.parametrize(
    ("server", "database", "django_version"),
    [
        ("uvicorn", "postgresql", "5.2"),
        ("daphne", "sqlite", "6.1"),
        ("hypercorn", "postgresql", "6.1"),
        ("gunicorn", "sqlite", "5.2"),
        ("granian", "sqlite", "5.2"),
    ],
)
def test_who_has_an_account(
    server: str,
    database: str,
    django_version: str,
    production: MakeProject,
    mail_server: tuple[SlowMailServer, str],
) -> None:
    """No response tells, no user gets many mails, and none that was accepted is lost when the server stops."""
    made = production(server=server, database=database, django_version=django_version)
    made.manage("shell", "--command", CREATE_USERS)
    mails, url = mail_server
    with made.served(EMAIL_URL=url) as running, running.client() as client:
        for _ in range(5):
            ask_for_mail(client, USERS[0])
        running.wait_until(lambda: len(mails.recipients) == 3)
        strangers = [f"stranger-{number}@example.com" for number in range(10)]
        seconds = [
            (ask_for_mail(client, user), ask_for_mail(client, stranger))
            for user, stranger in zip(USERS, strangers, strict=True)
        ]
        known, unknown = (statistics.median(each) for each in zip(*seconds, strict=True))
        assert abs(known - unknown) < 0.1, seconds
        assert running.stop() in (0, -15), running.output
        assert "Traceback" not in running.output
    assert sorted(mails.recipients) == sorted(3 * USERS[:1] + USERS[1:])


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_who_has_an_account_with_a_worker(
    django_version: str, production: MakeProject, mail_server: tuple[SlowMailServer, str]
) -> None:
    """The mail waits in the database, so that it outlives even the kill of all processes."""
    made = production(starter="live", django_version=django_version)
    made.manage("shell", "--command", CREATE_USERS)
    mails, url = mail_server
    with made.served(EMAIL_URL=url) as running, running.client() as client:
        ask_for_mail(client, "stranger@example.com")
        for address in (*USERS[:2], *4 * USERS[2:3]):
            ask_for_mail(client, address)
    with made.served("web", "worker", EMAIL_URL=url) as running, running.client() as client:
        running.wait_until(lambda: len(mails.recipients) == 5)
        assert mails.recipients == [*USERS[:2], *3 * USERS[2:3]]
        page = client.get(mails.links[0], follow_redirects=True)
        assert "Set password" in page.text
        assert "Traceback" not in running.output


# Row 7: WebSockets of users who signed out.


NEW_PASSWORD = "user = User.objects.get(username='joan'); user.set_password('compiler'); user.save()"
ENDS = {
    "grace": "User.objects.filter(username='grace').update(is_active=False)",
    "joan": NEW_PASSWORD,
    "hedy": "User.objects.filter(username='hedy').delete()",
}
CREATE_MEMBERS = f"""
password = User.objects.get(username="ada").password
for name in {[*ENDS, "mary"]}: User.objects.create(username=name, password=password)
"""


@pytest.mark.parametrize(
    ("server", "database", "django_version"),
    [
        ("uvicorn", "sqlite", "6.1"),
        ("daphne", "postgresql", "5.2"),
        ("hypercorn", "sqlite", "5.2"),
        ("gunicorn", "postgresql", "6.1"),
        ("granian", "sqlite", "5.2"),
    ],
)
def test_websockets_of_users_who_are_gone(
    server: str, database: str, django_version: str, production: MakeProject
) -> None:
    """Signed out, deactivated, deleted or with a new password: the connection ends within 15 s, that of others does not."""
    made = production(server=server, database=database, django_version=django_version, starter="chat")
    made.manage("shell", "--command", CREATE_MEMBERS)
    with made.served() as running, ExitStack() as stack:
        clients = {name: stack.enter_context(running.client()) for name in ("ada", "mary", *ENDS)}
        for number, (name, client) in enumerate(clients.items()):
            assert sign_in(client, f"203.0.113.{number}", name, "analytical-engine") == 302

        def end_sessions() -> None:
            made.manage("shell", "--command", "\n".join(ENDS.values()))
            sign_out(clients["ada"])

        asyncio.run(outlive_sessions(running, clients, end_sessions))
        assert "Traceback" not in running.output


def sign_out(client: httpx.Client) -> None:
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)[1]
    headers = {"Origin": "https://example.com"}
    answer = client.post("/accounts/logout/", data={"csrfmiddlewaretoken": token}, headers=headers)
    assert answer.status_code == 302


async def outlive_sessions(running: Server, clients: dict[str, httpx.Client], end_sessions: Callable[[], None]) -> None:
    async with AsyncExitStack() as stack:
        members = {}
        for name, client in clients.items():
            headers = {"Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)}
            url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
            connection = connect(url, origin="https://example.com", additional_headers=headers)
            members[name] = await stack.enter_async_context(connection)
        stay = members.pop("mary")
        await asyncio.to_thread(end_sessions)
        ended = [asyncio.create_task(member.wait_closed(), name=name) for name, member in members.items()]
        _, open_connections = await asyncio.wait(ended, timeout=15)
        assert [task.get_name() for task in open_connections] == [], running.output
        assert {name: member.close_code for name, member in members.items()} == dict.fromkeys(members, 3000)
        await stay.send('{"message": "still here"}')
        assert json.loads(await stay.recv())["user"] == "mary"


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


COUNT_ROWS = "from django.contrib.sessions.models import Session; print('rows:', Session.objects.count())"


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_guests(django_version: str, production: MakeProject) -> None:
    """They have no row of a session, their names differ, and stay as the server has made them."""
    made = production(starter="chat", django_version=django_version)
    with made.served() as running, running.client() as client:
        names = set()
        for _ in range(300):
            client.cookies.clear()
            answer = client.get("/chat/lobby/")
            names.add(re.search(r"You are <strong>(Guest \w{8})</strong>", answer.text)[1])
        assert len(names) == 300  # of 90,000, as many would differ in 6 of 10 tries
        [cookie] = answer.headers.get_list("Set-Cookie")
        assert {"HttpOnly", "SameSite=Lax", "Secure"} <= set(cookie.split("; "))
        guest = re.search(r"Guest \w{8}", answer.text)[0]
        assert guest in client.get("/chat/lobby/").text
        asyncio.run(speak(running, client.cookies["guest"], guest))
        assert made.manage("shell", "--command", COUNT_ROWS).stdout.endswith("rows: 0\n")


async def speak(running: Server, cookie: str, guest: str) -> None:
    url = f"ws://127.0.0.1:{running.port}/ws/chat/lobby/"
    chosen = cookie.replace(guest, "Guest 22222222")
    for value, name in ((cookie, guest), (chosen, None), ('"Guest 22222222"', None)):
        async with connect(
            url, origin="https://example.com", additional_headers={"Cookie": f"guest={value}"}
        ) as member:
            await member.send('{"message": "hello"}')
            user = json.loads(await member.recv())["user"]
            assert user == name if name else user not in ("Guest 22222222", guest)


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
