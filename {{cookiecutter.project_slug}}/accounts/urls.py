"""Account pages. Most are Django's views, under Django's names, with a shared template."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth import views as auth_views
from django.contrib.auth.decorators import login_required
from django.http.response import HttpResponseBase
from django.urls import path
from django.views import View
from django.views.generic import TemplateView

from . import views


def page(view: "type[View[Any]]", **context: str) -> Callable[..., HttpResponseBase]:
    return view.as_view(template_name="accounts/page.html", extra_context=context)


urlpatterns = [
    path(
        "",
        login_required(TemplateView.as_view(template_name="accounts/account.html")),
        name="account",
    ),
    # Delete this line to disable sign-up: the links to the page then disappear.
    path("register/", page(views.SignUpView, title="Sign up", button="Sign up"), name="register"),
    path("login/", page(views.SignInView, title="Sign in", button="Sign in"), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path(
        "password_change/",
        page(auth_views.PasswordChangeView, button="Change password"),
        name="password_change",
    ),
    path(
        "password_change/done/",
        page(
            auth_views.PasswordChangeDoneView,
            text="Your password has been changed.",
            link="account",
            link_text="Go to your account",
        ),
        name="password_change_done",
    ),
    path(
        "password_reset/",
        page(views.PasswordResetView, button="Send me a link"),
        name="password_reset",
    ),
    path(
        "password_reset/done/",
        page(
            auth_views.PasswordResetDoneView,
            text="If an account has that address, you will receive an email with a link.",
        ),
        name="password_reset_done",
    ),
    path(
        "reset/<uidb64>/<token>/",
        page(
            auth_views.PasswordResetConfirmView,
            button="Set password",
            text="This link has expired or was already used.",
            link="password_reset",
            link_text="Request a new link",
        ),
        name="password_reset_confirm",
    ),
    path(
        "reset/done/",
        page(
            auth_views.PasswordResetCompleteView,
            text="Your password has been set.",
            link="login",
            link_text="Sign in now",
        ),
        name="password_reset_complete",
    ),
]
