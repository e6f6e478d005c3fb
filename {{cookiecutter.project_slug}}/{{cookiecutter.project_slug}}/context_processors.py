from django.conf import settings
from django.http import HttpRequest
from django.urls import get_script_prefix


def site(request: HttpRequest) -> dict[str, str | bool]:
    """Add the site's name, the path of its home page and debug mode to every template's context."""
    return {
        "project_name": settings.SITE_NAME,
        "home_url": get_script_prefix(),
        "debug": settings.DEBUG,
    }
