from django.urls import path

from . import views
from .events import events

urlpatterns = [
    path("", views.board, name="board"),
    path("events/", events, name="events"),
    path("sync/", views.sync_view, name="sync"),
    path("async/", views.async_view, name="async"),
]
