from django.shortcuts import render

from . import util


async def index(request):
    return await page(request, "index", entries=await util.alist_entries())


async def entry(request, title):
    content = await util.aget_entry(title)
    if content is None:
        return await page(request, "not_found", status=404, title=title)
    return await page(request, "entry", title=title, content=content)


async def to_build(request):
    """Stands where the search, the new page and the random page will be."""
    return await page(request, "to_build")


async def page(request, name, status=200, **context):
    # A template in an async view cannot ask the database for the user, so this does.
    context["user"] = await request.auser()
    return render(request, f"encyclopedia/{name}.html", context, status=status)
