from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("conversations/<int:id>/", views.conversation, name="conversation"),
    path("conversations/<int:id>/events/", views.events, name="events"),
]
