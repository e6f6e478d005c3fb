"""Views for files that browsers and search engines request from every site."""

from django.contrib.staticfiles.storage import staticfiles_storage
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect


async def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect to the icon from the path that browsers try if a page, as in the admin, has none."""
    return redirect(staticfiles_storage.url("favicon.svg"))


async def robots(request: HttpRequest) -> HttpResponse:
    lines = "User-agent: *\nDisallow: /accounts/\nDisallow: /admin/\n"
    return HttpResponse(lines, content_type="text/plain")
