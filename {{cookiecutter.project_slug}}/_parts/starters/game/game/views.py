from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import aget_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from {{ cookiecutter.project_slug }}.serving.pubsub import publish

from .models import Table, get_lobby
from .rules import COLUMNS, ROWS


async def lobby(request: HttpRequest) -> HttpResponse:
    context = {"tables": await sync_to_async(get_lobby)(), "user": await request.auser()}
    return render(request, "game/lobby.html", context)


@require_POST
async def open_table(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    if not user.is_authenticated:
        return redirect_to_login(reverse("lobby"))
    table = await Table.objects.acreate(red=user)
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
