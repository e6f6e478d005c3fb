from django.urls import path

from . import api, streams, views

urlpatterns = [
    path("ninja/", api.api.urls),
    path("rest_framework/", api.rest_framework),
    path("events/", streams.events),
    path("tick/", streams.tick),
    *(
        path(f"{name}/", getattr(views, name))
        for name in (
            *("async_hello", "sync_hello", "async_query", "sync_query", "async_page", "sync_page"),
            *("download", "slow"),
        )
    ),
]
