"""What a student may hand in for a later project: sync views, a user model of its own, forms and fetch."""

import json

from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.decorators import login_required
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from markdown2 import Markdown

from .models import Post, User


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "network/index.html", {"posts": Post.objects.order_by("-id")})


def login_view(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
        if user is not None:
            login(request, user)
            return HttpResponseRedirect(reverse("index"))
        return render(request, "network/account.html", {"button": "Log in", "message": "Wrong name or password."})
    return render(request, "network/account.html", {"button": "Log in"})


def logout_view(request: HttpRequest) -> HttpResponseRedirect:
    logout(request)
    return HttpResponseRedirect(reverse("index"))


def register(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        try:
            user = User.objects.create_user(request.POST["username"], password=request.POST["password"])
        except IntegrityError:
            return render(request, "network/account.html", {"button": "Register", "message": "That name is taken."})
        login(request, user)
        return HttpResponseRedirect(reverse("index"))
    return render(request, "network/account.html", {"button": "Register"})


def about(request: HttpRequest) -> HttpResponse:
    """A page in a Markdown file, which people may change."""
    name = "pages/about.md"
    if request.method == "POST":
        if default_storage.exists(name):
            default_storage.delete(name)
        default_storage.save(name, ContentFile(request.POST["content"].encode()))
        return HttpResponseRedirect(reverse("about"))
    content = default_storage.open(name).read().decode() if default_storage.exists(name) else "Nothing yet."
    return render(request, "network/about.html", {"content": content, "html": Markdown().convert(content)})


@login_required
def add_post(request: HttpRequest) -> JsonResponse:
    post = Post.objects.create(author=request.user, text=json.loads(request.body)["text"])
    return JsonResponse({"id": post.id, "author": post.author.username, "text": post.text}, status=201)


@csrf_exempt
@login_required
def like(request: HttpRequest, post_id: int) -> JsonResponse:
    post = get_object_or_404(Post, pk=post_id)
    post.likes.add(request.user)
    return JsonResponse({"likes": post.likes.count()})
