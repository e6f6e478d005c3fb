from django.contrib import admin

from .models import Message, Room

admin.site.register(Room)


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):
    list_display = ["sent", "room", "user", "text"]
    list_filter = ["room"]
    search_fields = ["text", "user"]
