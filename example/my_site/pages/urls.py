from django.urls import path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("async/", views.async_view, name="async"),
    path("sync/", views.sync_view, name="sync"),
]
