from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("wiki/<str:title>", views.entry, name="entry"),
    path("wiki/<str:title>/", views.entry),
    path("search/", views.to_build, name="search"),
    path("new/", views.to_build, name="new_page"),
    path("random/", views.to_build, name="random_page"),
]
