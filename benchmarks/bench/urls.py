from django.urls import path

from . import views

urlpatterns = [
    path(f"{name}/", getattr(views, name))
    for name in ("async_hello", "sync_hello", "async_query", "sync_query", "async_page", "sync_page", "slow")
]
