from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.text import slugify

from .models import Message, Room
from .names import GUEST_COOKIE, get_display_name

MAX_MESSAGES_SHOWN = 50
MAX_ROOMS_SHOWN = 100


async def index(request: HttpRequest) -> HttpResponse:
    rooms = [room async for room in Room.objects.order_by("name")[:MAX_ROOMS_SHOWN]]
    return await page(request, "index", rooms=rooms)


async def join(request: HttpRequest) -> HttpResponse:
    """Redirect to the room whose name is the slug of the form's input."""
    room = slugify(request.GET.get("room", ""))[:50]
    if not room:
        messages.error(request, "The name of a room needs at least one letter (a to z) or digit.")
        return redirect("index")
    return redirect("room", room)


async def room(request: HttpRequest, room: str) -> HttpResponse:
    user = await request.auser()
    name = get_display_name(user, request.COOKIES)
    latest = Message.objects.filter(room__name=room).order_by("-id")[:MAX_MESSAGES_SHOWN]
    shown = [message async for message in latest][::-1]
    response = await page(request, "room", room=room, name=name, latest=shown)
    if not user.is_authenticated:
        response.set_signed_cookie(
            GUEST_COOKIE,
            name,
            max_age=settings.SESSION_COOKIE_AGE,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
    return response


async def page(request: HttpRequest, template: str, /, **context: object) -> HttpResponse:
    # A template rendered in an async view cannot load the user from the database.
    context["user"] = await request.auser()
    return render(request, f"chat/{template}.html", context)
