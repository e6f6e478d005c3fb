from django.urls import path

from . import views

NAMES = """
    release asyncio_run run_until_complete joined_thread keep_loop run_coroutine_threadsafe hold sync_hold
    plain_sync_stream plain_async_stream event_stream endless_sync_stream count_ended stream_with_close
    async_stream_with_close closed_in_threads bare_stream async_bare_stream download async_download iterator
    async_iterator result connection_state cache_get async_cache_get nothing
    quarter_second_stream
"""

urlpatterns = [
    *(path(f"{name}/", getattr(views, name)) for name in NAMES.split()),
    path("hold/<rest>/", views.hold),
    path("mark_connection/<what>/", views.mark_connection),
    path("async_mark_connection/<what>/", views.async_mark_connection),
    path("read_in_task/<what>/<when>/", views.read_in_task),
    path("read_in_thread/<what>/<when>/", views.read_in_thread),
]
