"""The pages of the API: its home page, and the tokens of the user."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from .models import Token


class TokenForm(ModelForm):
    class Meta:
        model = Token
        fields = ["name"]


async def index(request: HttpRequest) -> HttpResponse:
    return await page(request, "index", url=request.build_absolute_uri("/api/"))


@never_cache
@login_required
async def tokens(request: HttpRequest) -> HttpResponse:
    """List the user's tokens. A POST creates one and shows its secret once."""
    user: Any = await request.auser()
    form = TokenForm(request.POST or None, instance=Token(user=user))
    created = None
    if request.method == "POST" and form.is_valid():
        created = form.instance
        await created.asave()
        form = TokenForm()
    listed = [token async for token in Token.objects.filter(user=user)]
    return await page(request, "tokens", form=form, tokens=listed, created=created)


@require_POST
@login_required
async def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    user: Any = await request.auser()
    deleted, _ = await Token.objects.filter(id=token_id, user=user).adelete()
    if deleted:
        messages.success(request, "The token was revoked.")
    return redirect("tokens")


async def page(request: HttpRequest, template: str, /, **context: object) -> HttpResponse:
    # A template rendered in an async view cannot load the user from the database.
    context["user"] = await request.auser()
    return render(request, f"api/{template}.html", context)
