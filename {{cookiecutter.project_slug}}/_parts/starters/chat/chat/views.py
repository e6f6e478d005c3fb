from django.conf import settings
from django.contrib import messages
from django.shortcuts import redirect, render
from django.utils.text import slugify

from .models import Message, Room
from .names import GUEST_COOKIE, name_of

LATEST = 50  # messages that a page shows


async def index(request):
    rooms = [room async for room in Room.objects.order_by("name")[:100]]
    return await page(request, "index", rooms=rooms)


async def join(request):
    """From the form on the index to the room, whose name is made of what was typed."""
    room = slugify(request.GET.get("room", ""))[:50]
    if not room:
        messages.error(request, "A room's name needs letters or digits, a to z and 0 to 9.")
        return redirect("index")
    return redirect("room", room)


async def room(request, room):
    user = await request.auser()
    name = name_of(user, request.COOKIES)
    latest = Message.objects.filter(room__name=room).order_by("-id")[:LATEST]
    context = {"room": room, "name": name}
    context["latest"] = [message async for message in latest][::-1]
    response = await page(request, "room", **context)
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


async def page(request, template, /, **context):
    # A template in an async view cannot ask the database for the user, so this does.
    context["user"] = await request.auser()
    return render(request, f"chat/{template}.html", context)
