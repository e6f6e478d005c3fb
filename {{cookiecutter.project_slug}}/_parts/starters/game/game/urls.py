from django.urls import path

from . import views

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("tables/", views.open_table, name="open_table"),
    path("tables/<uuid:id>/", views.table, name="table"),
]
