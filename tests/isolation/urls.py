from collections.abc import Callable
from typing import Any

from django.urls import path

from . import views

KINDS: dict[str, Callable[..., Any]] = {
    "sync": views.sync,
    "async": views.async_,
    "sync_stream": views.sync_stream,
    "async_stream": views.async_stream,
    "mixed_stream": views.mixed_stream,
    "event_stream": views.event_stream,
    "event_stream_of_sync_view": views.event_stream_of_sync_view,
    "late": views.late,
}
LEAVE = ["litter_in_stream", "litter_in_task", "inspect_in_own_stream"]

urlpatterns = [
    *(path(f"<program>/<owner>/{kind}/<int:number>/", view) for kind, view in KINDS.items()),
    path("late_result/<int:number>/", views.late_result),
    *(path(f"{name}/<int:open_transaction>/", getattr(views, name)) for name in LEAVE),
    *(path(f"{name}/", getattr(views, name)) for name in ["count_closed", "closed_streams", "inspect_in_stream"]),
]
