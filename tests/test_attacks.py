"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

import re
from collections.abc import Callable

import httpx
import pytest

from tests.template import Project

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


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
