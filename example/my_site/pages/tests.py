"""Tests of the app `pages`: when you replace its pages, replace or delete this file."""

import platform
import re
import sys

import django
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client
from django.utils.html import escape

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/", "/accounts/login/"])
def test_pages(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in response.text


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/"])
def test_signed_in_user(path: str, client: Client) -> None:
    client.force_login(get_user_model().objects.create_user("ada"))
    assert ">ada</a>" in client.get(path).text


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/"])
@pytest.mark.parametrize("program", ["/venv/bin/uvicorn", "/venv/lib/uvicorn/__main__.py"])
async def test_server(
    path: str, program: str, async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "an argument"])
    page = (await async_client.get(path)).content.decode()
    server, protocol, _, thread, *versions = re.findall("<dd>(.*)</dd>", page)
    assert (server, protocol) == ("uvicorn", "ASGI")
    assert thread
    assert versions == [django.get_version(), platform.python_version()]


def test_protocol_of_wsgi(client: Client) -> None:
    assert "<dd>WSGI</dd>" in client.get("/").text


def test_page_not_found(client: Client) -> None:
    assert client.get("/nothing-here/").status_code == 404
