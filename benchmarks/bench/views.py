import time
from pathlib import Path

from django.contrib.auth import get_user_model
from django.http import FileResponse, HttpRequest, HttpResponse
from django.shortcuts import render

User = get_user_model()
DOWNLOAD = Path(__file__).with_name("download.bin")  # a mebibyte, which run.py writes


async def async_hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def sync_hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


async def async_query(request: HttpRequest) -> HttpResponse:
    user = await User.objects.aget(username="ada")
    return HttpResponse(user.email)


def sync_query(request: HttpRequest) -> HttpResponse:
    user = User.objects.get(username="ada")
    return HttpResponse(user.email)


async def async_page(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    visits = await request.session.aget("visits")
    return render(request, "bench/page.html", {"user": user, "visits": visits, "rows": range(50)})


def sync_page(request: HttpRequest) -> HttpResponse:
    visits = request.session.get("visits")
    return render(request, "bench/page.html", {"visits": visits, "rows": range(50)})


def download(request: HttpRequest) -> FileResponse:
    return FileResponse(DOWNLOAD.open("rb"))


def slow(request: HttpRequest) -> HttpResponse:
    time.sleep(0.2)
    return HttpResponse("slow")
