from django.contrib.auth import forms, views
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .backends import get_client_network
from .forms import PasswordResetForm, exceeds_limit

MAX_RESETS_PER_HOUR = 30  # from one network


class PasswordResetView(views.PasswordResetView):
    form_class = PasswordResetForm

    def form_valid(self, form: forms.PasswordResetForm) -> HttpResponse:
        network = get_client_network(self.request)
        if exceeds_limit(f"password-resets-from-{network}", MAX_RESETS_PER_HOUR):
            return too_many_requests(
                self.request, "There were too many requests. Try again in an hour."
            )
        return super().form_valid(form)


def locked_out(request: HttpRequest, response: object, credentials: object) -> HttpResponse:
    """Return the response that django-axes sends after too many wrong passwords."""
    text = "There were too many wrong passwords. Try again in a quarter of an hour."
    return too_many_requests(request, text)


def too_many_requests(request: HttpRequest, text: str) -> HttpResponse:
    context = {"title": "Please wait", "text": text}
    return render(request, "accounts/page.html", context, status=429)
