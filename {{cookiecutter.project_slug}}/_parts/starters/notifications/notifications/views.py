from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.db.models import QuerySet
from django.forms import modelform_factory
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.generic import ListView

from .models import Notification
from .notify import mark_as_read, notify

NotificationForm = modelform_factory(Notification, fields=["text"])


async def home(request: HttpRequest) -> HttpResponse:
    """Show a form with which users notify themselves."""
    user = await request.auser()
    form = NotificationForm(request.POST or None)
    if user.is_authenticated and form.is_valid():
        await notify(user, form.cleaned_data["text"], reverse("home"))
        return redirect("home")
    return TemplateResponse(request, "notifications/home.html", {"form": form, "user": user})


class NotificationList(LoginRequiredMixin, ListView):
    paginate_by = 20

    def get_queryset(self) -> QuerySet[Notification]:
        user: Any = self.request.user
        return Notification.objects.filter(user=user).order_by("-id")


@login_required
def read_one(request: HttpRequest, id: int) -> HttpResponse:
    """Mark a notification as read. Redirect to its page, or to the list if the form has `stay`."""
    notification = get_object_or_404(Notification, user_id=request.user.pk, id=id)
    if request.method == "POST":  # the redirect after sign-in is a GET
        mark_as_read(request.user.pk, id=id)
    path = "" if "stay" in request.POST else notification.path
    return redirect(path or "notifications")


@login_required
def read_all(request: HttpRequest, newest_id: int) -> HttpResponse:
    """Mark all notifications as read, up to the newest one that the page showed."""
    if request.method == "POST":
        mark_as_read(request.user.pk, id__lte=newest_id)
    return redirect("notifications")
