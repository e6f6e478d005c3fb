import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.utils.html import escape

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/", "/accounts/login/"])
def test_pages(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in response.text


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/"])
def test_signed_in_user(path: str, client) -> None:
    client.force_login(get_user_model().objects.create_user("ada"))
    assert ">ada</a>" in client.get(path).text


async def test_async_page(async_client):
    response = await async_client.get("/")
    assert "<dd>ASGI</dd>" in response.text


def test_page_not_found(client):
    assert client.get("/nothing-here/").status_code == 404
