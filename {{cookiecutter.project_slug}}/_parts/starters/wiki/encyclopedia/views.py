from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from . import util


async def index(request: HttpRequest) -> HttpResponse:
    return await page(request, "index", entries=await util.alist_entries())


async def entry(request: HttpRequest, title: str) -> HttpResponse:
    content = await util.aget_entry(title)
    if content is None:
        return await page(request, "not_found", status=404, title=title)
    return await page(request, "entry", title=title, content=content)


async def to_build(request: HttpRequest) -> HttpResponse:
    """Placeholder for the search, the new page and the random page, until you build them."""
    return await page(request, "to_build")


async def page(
    request: HttpRequest, name: str, status: int = 200, **context: object
) -> HttpResponse:
    # A template rendered in an async view cannot load the user from the database.
    context["user"] = await request.auser()
    return render(request, f"encyclopedia/{name}.html", context, status=status)
