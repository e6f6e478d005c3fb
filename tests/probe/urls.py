from django.urls import path

from . import views

NAMES = """
    state async_state litter count async_count threads_of_one_request stream later slow upload download broken
    async_broken broken_stream missing visit wait_long count_cancelled context
    careless_stream async_large large large_stream cached async_cached closing async_closing
    closing_instance async_closing_instance async_with_closer shared count_finished begin disconnect
    stuck stream_with_calls count_things event_stream announced
    let_finish async_wait_long cancel_a_call backend async_backend event_stream_backends
    vendor count_connected notify stream_with_timeout
    change_setting event_stream_setting watched_stream
"""

urlpatterns = [path(f"{name}/", getattr(views, name)) for name in NAMES.split()]
