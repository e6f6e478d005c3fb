from typing import Any

from django.contrib.auth import forms, login, views
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from .backends import get_client_network
from .forms import PasswordResetForm, SignUpForm, exceeds_limit

# Limits for one network.
MAX_RESETS_PER_HOUR = 30
MAX_SIGN_UPS_PER_HOUR = 60


class SignInView(views.LoginView):
    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        # `next` may be a page that this user may not view: redirecting there would cause a loop.
        is_sent = bool(self.get_redirect_url())
        self.redirect_authenticated_user = request.method == "GET" and not is_sent


class SignUpView(SignInView):
    """Creates a user, and signs them in."""

    form_class = SignUpForm  # type: ignore[assignment]  # it takes other arguments

    def get_form_kwargs(self) -> dict[str, Any]:
        kwargs = super().get_form_kwargs()
        del kwargs["request"]  # only the sign-in form takes it
        return kwargs

    def post(self, request: HttpRequest, *args: str, **kwargs: Any) -> HttpResponse:
        network = get_client_network(request)
        if exceeds_limit(f"sign-ups-from-{network}", MAX_SIGN_UPS_PER_HOUR):
            return too_many_requests(request, "There were too many sign-ups. Try again in an hour.")
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        login(self.request, form.save())
        return redirect(self.get_success_url())


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
    text = "There were too many wrong passwords. Try again in 15 minutes."
    return too_many_requests(request, text)


def too_many_requests(request: HttpRequest, text: str) -> HttpResponse:
    context = {"title": "Please wait", "text": text}
    return render(request, "accounts/page.html", context, status=429)
