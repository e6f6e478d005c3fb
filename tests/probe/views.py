import asyncio
import gc
import hashlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.files.uploadedfile import UploadedFile
from django.db import connection, transaction
from django.db.backends.signals import connection_created
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.urls import get_script_prefix
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_exempt
from wiki.serving.streams import EventStreamResponse, ServerSentEvent

from .caches import CountedCache

User = get_user_model()
background: set[asyncio.Task[None]] = set()
cancelled: list[str] = []
kept_responses: list[EventStreamResponse] = []


def state(request: HttpRequest) -> JsonResponse:
    """Return the state of this request's thread."""
    connection.force_debug_cursor = True  # so that queries are logged
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse(
        {
            "process": os.getpid(),
            "thread": threading.current_thread().name,
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "language": translation.get_language(),
            "time_zone": timezone.get_current_timezone_name(),
            "in_transaction": connection.in_atomic_block,
            "autocommit": connection.get_autocommit(),
            "queries": len(connection.queries_log),
            "keepalives": connection.connection.info.get_parameters().get("keepalives_idle"),
        }
    )


async def async_state(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"threads": sorted(thread.name for thread in threading.enumerate())})


def litter(request: HttpRequest) -> HttpResponse:
    """Leave all kinds of state in the thread."""
    translation.activate("de")
    timezone.activate("Asia/Kolkata")
    connection.force_debug_cursor = True
    transaction.atomic().__enter__()
    User.objects.create_user("litter")
    return HttpResponse("left")


class Closing(HttpResponse):
    """Queries the database when Django closes it, after it was sent."""

    def close(self) -> None:
        User.objects.create_user(f"closed by {self.content.decode()}")
        super().close()


def closed_by_database(response: HttpResponse) -> HttpResponse:
    """Replace an instance's `close`, which Django does not document but libraries do."""

    def close() -> None:
        User.objects.create_user(f"closed by an instance, {response.content.decode()}")
        HttpResponse.close(response)

    vars(response)["close"] = close
    return response


def closing_instance(request: HttpRequest) -> HttpResponse:
    return closed_by_database(HttpResponse("sync"))


async def async_closing_instance(request: HttpRequest) -> HttpResponse:
    return closed_by_database(HttpResponse("async"))


async def async_with_closer(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("async")
    closers: list[Callable[[], object]] = vars(response)["_resource_closers"]
    closers.append(lambda: User.objects.create_user("closer"))
    return response


SHARED_RESPONSE = HttpResponse("the same for all")
finished: list[str] = []


def record_finished(**kwargs: object) -> None:
    """A receiver of `request_finished`."""
    finished.append(threading.current_thread().name)


may_finish = threading.Event()


def wait_to_finish(**kwargs: object) -> None:
    """A receiver of `request_finished` that waits for another request."""
    may_finish.wait(10)


async def let_finish(request: HttpRequest) -> HttpResponse:
    may_finish.set()
    return HttpResponse("finished")


def server_error(request: HttpRequest) -> HttpResponse:
    """A handler500."""
    return HttpResponse(threading.current_thread().name, status=500)


async def async_wait_long(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(3600)
    return HttpResponse("never")


async def cancel_a_call(request: HttpRequest) -> JsonResponse:
    """Cancel a call that waits for the request's thread, and return what it did."""
    calls: list[str] = []
    may_go_on = threading.Event()
    first = asyncio.create_task(sync_to_async(may_go_on.wait)())
    second = asyncio.create_task(sync_to_async(calls.append)("cancelled call"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    with suppress(asyncio.CancelledError):
        await second
    may_go_on.set()
    await first
    await sync_to_async(calls.append)("last call")
    return JsonResponse({"calls": calls})


def shared(request: HttpRequest) -> HttpResponse:
    return SHARED_RESPONSE


def count_finished(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"finished": len(finished)})


def begin(request: HttpRequest) -> HttpResponse:
    """Leave a transaction open that Django does not know of."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
    User.objects.create_user(f"begin {time.monotonic_ns()}")
    return HttpResponse("begun")


def disconnect(request: HttpRequest) -> HttpResponse:
    """Close the connection behind Django's back."""
    connection.ensure_connection()
    connection.connection.close()
    return HttpResponse("closed")


def change_setting(request: HttpRequest) -> HttpResponse:
    """Leave a setting in the session of PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SET wiki.owner = 'ada'")
    return HttpResponse("changed")


async def event_stream_setting(request: HttpRequest) -> EventStreamResponse:
    def read() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('wiki.owner', true)")
            return cursor.fetchone()[0] or ""

    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(await sync_to_async(read)())

    return EventStreamResponse(events())


def record_connected(**kwargs: object) -> None:
    """A receiver of `connection_created`."""
    connected.append(threading.current_thread().name)


connected: list[str] = []
connection_created.connect(record_connected)


async def count_connected(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"connected": len(connected)})


def vendor(request: HttpRequest) -> HttpResponse:
    """Use a connection that is never opened."""
    return HttpResponse(connection.vendor)


def closing(request: HttpRequest) -> Closing:
    return Closing("sync")


async def async_closing(request: HttpRequest) -> Closing:
    return Closing("async")


def refused(request: HttpRequest, reason: str) -> HttpResponse:
    """A CSRF_FAILURE_VIEW."""
    return HttpResponse(f"refused, {User.objects.count()} users", status=403)


def count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"users": User.objects.count()})


async def async_count(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"users": await User.objects.acount()})


async def threads_of_one_request(request: HttpRequest) -> JsonResponse:
    name = sync_to_async(lambda: threading.current_thread().name)
    return JsonResponse({"threads": [await name() for _ in range(5)]})


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    users = await User.objects.acount()

    async def events() -> AsyncIterator[str]:
        yield f"data: {users}\n\n"
        while True:
            await asyncio.sleep(3600)
            yield "data: more\n\n"

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def event_stream(request: HttpRequest) -> EventStreamResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(await User.objects.acount())
        await asyncio.sleep(3600)

    return EventStreamResponse(events())


async def watched_stream(request: HttpRequest) -> EventStreamResponse:
    """Stream 20 events of this size, then wait; say when the stream is closed."""
    size = int(request.GET["size"])

    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            for _ in range(20):
                yield ServerSentEvent("x" * size)
            await asyncio.sleep(3600)
        finally:
            print(f"closed a stream of {size} bytes and {await User.objects.acount()} users")

    response = EventStreamResponse(events(), keep_alive_seconds=0.2)
    kept_responses.append(response)  # as by a reference cycle: closing must not wait for the garbage collector
    return response


def backend_process() -> tuple[int, float]:
    """Return the process of PostgreSQL that serves this connection, and its age in seconds."""
    with connection.cursor() as cursor:
        age = "extract(epoch FROM clock_timestamp() - backend_start)::float"
        cursor.execute(f"SELECT pid, {age} FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        process, age_seconds = cursor.fetchone()
        return process, age_seconds


def backend(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"processes": [backend_process()]})


async def async_backend(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"processes": [await sync_to_async(backend_process)()]})


async def event_stream_backends(request: HttpRequest) -> EventStreamResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        await sync_to_async(str)("a call without a query")
        processes = [await sync_to_async(backend_process)() for _ in range(10)]
        yield ServerSentEvent({"processes": processes})

    return EventStreamResponse(events())


LARGE_BODY = b"x" * 20_000_000  # larger than the buffers between server and client


async def async_large(request: HttpRequest) -> HttpResponse:
    await User.objects.acount()
    return HttpResponse(LARGE_BODY)


def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(LARGE_BODY, headers={"X-Users": User.objects.count()})


def large_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(part for part in [f"{User.objects.count()}\n", LARGE_BODY])


def cached(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"closed": cache.get("key", CountedCache.closed)})


async def async_cached(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"closed": await cache.aget("key", CountedCache.closed)})


async def later(request: HttpRequest) -> HttpResponse:
    async def work() -> None:
        await asyncio.sleep(0.2)
        await User.objects.acreate(username="later")

    task = asyncio.create_task(work())
    background.add(task)
    task.add_done_callback(background.discard)
    return HttpResponse("started")


def slow(request: HttpRequest) -> HttpResponse:
    time.sleep(1)
    return HttpResponse("slow")


def announced(request: HttpRequest) -> HttpResponse:
    """Log that the request has reached this view, and take two seconds."""
    print("in the view", flush=True)
    time.sleep(2)
    return HttpResponse("announced")


def stuck(request: HttpRequest) -> None:
    time.sleep(60)


class Thing: ...


things: weakref.WeakSet[Thing] = weakref.WeakSet()


async def stream_with_calls(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(10):
            thing = Thing()
            things.add(thing)
            yield await sync_to_async(str)(thing)

    return StreamingHttpResponse(parts())


async def count_things(request: HttpRequest) -> JsonResponse:
    gc.collect()
    threads = sum(isinstance(each, threading.Thread) for each in gc.get_objects())
    return JsonResponse({"things": len(things), "threads": threads})


def wait_long(request: HttpRequest) -> None:
    """A sync view that waits for async code."""

    async def wait() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(request.path)
            raise

    async_to_sync(wait)()


async def count_cancelled(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"cancelled": len(cancelled)})


def context(request: HttpRequest) -> StreamingHttpResponse:
    prefix = get_script_prefix()
    translation.activate("de")

    def lines() -> Iterator[str]:
        yield f"{prefix} {get_script_prefix()} {translation.get_language()}"

    return StreamingHttpResponse(lines())


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    sent = request.FILES["file"]
    assert isinstance(sent, UploadedFile)
    digest = hashlib.sha256(b"".join(sent.chunks())).hexdigest()
    return JsonResponse({"size": sent.size, "sha256": digest, "on_disk": hasattr(sent, "temporary_file_path")})


def download(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"), as_attachment=True)


def broken(request: HttpRequest) -> None:
    raise RuntimeError("sync view broke")


async def async_broken(request: HttpRequest) -> None:
    raise RuntimeError("async view broke")


async def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await asyncio.sleep(0.1)
        raise RuntimeError("stream broke")

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def stream_with_timeout(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        raise TimeoutError("stream took too long")

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def careless_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await asyncio.sleep(3600)
        finally:
            raise RuntimeError("clean-up broke")

    return StreamingHttpResponse(events(), content_type="text/event-stream")


async def visit(request: HttpRequest) -> JsonResponse:
    """Change a session and messages in an async view that also receives a form."""
    visits = await request.session.aget("visits", 0) + 1
    await request.session.aset("visits", visits)
    messages.info(
        request, f"visit {visits}", extra_tags=secrets.token_hex(5000)
    )  # too much for a cookie, even compressed
    shown = [message.message for message in messages.get_messages(request)] if request.method == "POST" else []
    return JsonResponse({"visits": visits, "messages": shown, "token": get_token(request)})


async def notify(request: HttpRequest) -> HttpResponse:
    """Add a message that is stored in the session, which was not loaded."""
    messages.info(request, "too much for a cookie", extra_tags=secrets.token_hex(5000))
    return HttpResponse("added")


async def missing(request: HttpRequest) -> None:
    raise Http404
