from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .models import Token


@admin.register(Token)
class TokenAdmin(admin.ModelAdmin):
    """Creates tokens, and revokes them by deleting them."""

    list_display = ["name", "user", "created"]
    list_filter = ["created"]
    search_fields = ["name", "user__username"]
    fields = ["user", "name"]
    raw_id_fields = ["user"]

    def has_change_permission(self, request: HttpRequest, obj: Token | None = None) -> bool:
        return False

    def response_add(
        self, request: HttpRequest, obj: Token, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the secret only here: a message would store it in a cookie or the session."""
        return render(request, "api/created.html", {"created": obj})
