from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .models import Announcement
from .notify import notify_all


@admin.register(Announcement)
class AnnouncementAdmin(admin.ModelAdmin):
    """Notifies all users when an announcement is added, in the admin's transaction."""

    list_display = ["created", "text", "url", "recipients"]

    def has_change_permission(self, request: HttpRequest, obj: Announcement | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Announcement, *args: Any) -> None:
        obj.recipients = notify_all(obj.text, obj.url)
        super().save_model(request, obj, *args)
