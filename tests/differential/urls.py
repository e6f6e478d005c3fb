from django.urls import path

from .views import VIEWS

urlpatterns = [
    *(path(f"{name}/", view, name=name) for name, view in VIEWS.items()),
    path("with/<int:number>/<slug:word>/", lambda request, **kwargs: VIEWS["echo"](request), name="parameters"),
    path("without_slash", VIEWS["async_echo"]),
]
