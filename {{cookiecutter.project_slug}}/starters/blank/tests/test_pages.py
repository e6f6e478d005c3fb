import pytest
from django.conf import settings
from django.utils.html import escape

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/", "/async/", "/sync/", "/accounts/login/"])
def test_pages(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert f'<a class="site-name" href="/">{escape(settings.SITE_NAME)}</a>' in response.text


async def test_async_page(async_client):
    response = await async_client.get("/")
    assert "<dd>ASGI</dd>" in response.text


def test_page_not_found(client):
    assert client.get("/nothing-here/").status_code == 404
