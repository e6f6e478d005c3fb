from typing import Any

from django.contrib.auth import views
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .backends import get_client_network
from .forms import PasswordResetForm, exceeds_limit

MAX_RESETS_PER_HOUR = 30  # that one network may ask for


class PasswordResetView(views.PasswordResetView):
    form_class = PasswordResetForm

    def form_valid(self, form: Any) -> HttpResponse:
        network = get_client_network(self.request)
        if exceeds_limit(f"password-resets-from-{network}", MAX_RESETS_PER_HOUR):
            return please_wait(self.request, "There were too many requests. Try again in an hour.")
        return super().form_valid(form)


def locked_out(request: HttpRequest, response: object, credentials: object) -> HttpResponse:
    """Return what django-axes answers to whoever tried too many passwords."""
    text = "There were too many wrong passwords. Try again in a quarter of an hour."
    return please_wait(request, text)


def please_wait(request: HttpRequest, text: str) -> HttpResponse:
    context = {"title": "Please wait", "text": text}
    return render(request, "accounts/page.html", context, status=429)
