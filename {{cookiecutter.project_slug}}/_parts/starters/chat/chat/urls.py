from django.urls import path, re_path

from . import views
from .models import ROOM_NAME

urlpatterns = [
    path("", views.index, name="index"),
    path("chat/", views.join, name="join"),
    re_path(rf"^chat/(?P<room>{ROOM_NAME})/$", views.room, name="room"),
]
