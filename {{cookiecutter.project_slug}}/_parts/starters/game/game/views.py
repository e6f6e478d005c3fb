from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import aget_object_or_404, redirect, render

from {{ cookiecutter.project_slug }}.serving.pubsub import publish

from .models import Table, get_lobby
from .rules import COLUMNS, ROWS


async def lobby(request: HttpRequest) -> HttpResponse:
    context = {"tables": await sync_to_async(get_lobby)(), "user": await request.auser()}
    return render(request, "game/lobby.html", context)


@login_required
async def open_table(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":  # back from the sign-in page
        return redirect("lobby")
    table = await Table.objects.acreate(red_id=(await request.auser()).pk)
    await publish("lobby", "")
    return redirect("table", table.pk)


async def table(request: HttpRequest, id: UUID) -> HttpResponse:
    tables = Table.objects.select_related("red", "yellow")
    context = {
        "table": await aget_object_or_404(tables, pk=id),
        "rows": range(ROWS),
        "columns": range(1, COLUMNS + 1),
        "user": await request.auser(),
    }
    return render(request, "game/table.html", context)
