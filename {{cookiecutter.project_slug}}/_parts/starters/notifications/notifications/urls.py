from django.urls import path

from . import views
from .events import events

urlpatterns = [
    path("", views.home, name="home"),
    path("notifications/", views.NotificationList.as_view(), name="notifications"),
    path("notifications/events/", events, name="notification_events"),
    path("notifications/<int:id>/read/", views.read_one, name="read_one"),
    path("notifications/until/<int:newest_id>/read/", views.read_all, name="read_all"),
]
