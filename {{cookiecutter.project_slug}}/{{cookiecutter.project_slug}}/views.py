"""What browsers and search engines ask every site for."""

from django.contrib.staticfiles.storage import staticfiles_storage
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect


async def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect from where browsers look if a page names no icon, as those of the admin do."""
    return redirect(staticfiles_storage.url("favicon.svg"))


async def robots(request: HttpRequest) -> HttpResponse:
    lines = "User-agent: *\nDisallow: /accounts/\nDisallow: /admin/\n"
    return HttpResponse(lines, content_type="text/plain")
