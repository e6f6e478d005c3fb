from django.contrib import admin

from .models import Answer, Conversation

admin.site.register([Conversation, Answer])
