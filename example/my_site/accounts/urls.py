"""Sign-in, sign-out and password pages: Django's views under Django's names, with one template."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth import views
from django.http.response import HttpResponseBase
from django.urls import path
from django.views import View

from .views import PasswordResetView


def page(view: "type[View[Any]]", **context: str) -> Callable[..., HttpResponseBase]:
    return view.as_view(template_name="accounts/page.html", extra_context=context)


urlpatterns = [
    path("login/", page(views.LoginView, title="Sign in", button="Sign in"), name="login"),
    path("logout/", views.LogoutView.as_view(), name="logout"),
    path(
        "password_change/",
        page(views.PasswordChangeView, button="Change password"),
        name="password_change",
    ),
    path(
        "password_change/done/",
        page(views.PasswordChangeDoneView, text="Your password was changed."),
        name="password_change_done",
    ),
    path(
        "password_reset/",
        page(PasswordResetView, button="Send me a link"),
        name="password_reset",
    ),
    path(
        "password_reset/done/",
        page(
            views.PasswordResetDoneView,
            text="If there is an account with that address, a mail with a link is on its way to it.",
        ),
        name="password_reset_done",
    ),
    path(
        "reset/<uidb64>/<token>/",
        page(
            views.PasswordResetConfirmView,
            button="Set password",
            text="This link was used already or is too old. Ask for a new one.",
        ),
        name="password_reset_confirm",
    ),
    path(
        "reset/done/",
        page(views.PasswordResetCompleteView, text="Your password is set. You can sign in now."),
        name="password_reset_complete",
    ),
]
