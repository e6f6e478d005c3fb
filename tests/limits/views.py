import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.files.uploadedfile import UploadedFile
from django.db import connection
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from wiki.serving.streams import EventStreamResponse, ServerSentEvent

User = get_user_model()
CHUNK = b"x" * 65536
FILE = Path(__file__).parent / "large.bin"

# Set by `release`: all waiting views continue.
released = threading.Event()
async_released = asyncio.Event()


async def release(request: HttpRequest) -> HttpResponse:
    released.set()
    async_released.set()
    return HttpResponse("released")


async def count_users() -> int:
    return await User.objects.acount()


# Sync views that start an event loop, which queries the database.


def asyncio_run(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"users": asyncio.run(count_users())})


def run_until_complete(request: HttpRequest) -> JsonResponse:
    loop = asyncio.new_event_loop()
    try:
        return JsonResponse({"users": loop.run_until_complete(count_users())})
    finally:
        loop.close()


def joined_thread(request: HttpRequest) -> JsonResponse:
    """Wait for a thread that runs in the view's context."""
    found = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=[lambda: found.append(asyncio.run(count_users()))])
    thread.start()
    thread.join()
    return JsonResponse({"users": found[0]})


loops: list[asyncio.AbstractEventLoop] = []


async def keep_loop(request: HttpRequest) -> HttpResponse:
    loops.append(asyncio.get_running_loop())
    return HttpResponse("kept")


def run_coroutine_threadsafe(request: HttpRequest) -> JsonResponse:
    """Wait for a call that the server's own loop makes, in the context of this view."""
    return JsonResponse({"users": asyncio.run_coroutine_threadsafe(count_users(), loops[-1]).result()})


# Views that hold their thread.


async def hold(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Wait for long, as a view that calls a language model."""
    user = await request.auser()
    await User.objects.acount()
    await async_released.wait()
    return HttpResponse(str(user))


def sync_hold(request: HttpRequest) -> HttpResponse:
    released.wait()
    return HttpResponse(str(request.user))


# Streams.

ended_streams: list[str] = []


def plain_sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        try:
            yield f"{User.objects.count()}\n"
            released.wait()
            yield f"{User.objects.count()}\n"
        finally:
            ended_streams.append("sync")

    return StreamingHttpResponse(lines())


def plain_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        try:
            yield f"{await count_users()}\n"
            await async_released.wait()
            yield f"{await count_users()}\n"
        finally:
            ended_streams.append("async")

    return StreamingHttpResponse(lines())


async def quarter_second_stream(request: HttpRequest) -> StreamingHttpResponse:
    """Stream for long enough that another thread replaces this one."""
    users = await count_users()

    async def lines() -> AsyncIterator[str]:
        yield f"{users}\n"
        await asyncio.sleep(0.25)
        yield f"{users}\n"

    return StreamingHttpResponse(lines())


async def event_stream(request: HttpRequest) -> EventStreamResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(await count_users())
        await async_released.wait()
        yield ServerSentEvent(await count_users())

    return EventStreamResponse(events())


def endless_sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        try:
            while True:
                time.sleep(0.0001)  # limits the memory of a core that reads all of it first
                yield CHUNK
        finally:
            ended_streams.append("endless")

    return StreamingHttpResponse(parts())


async def count_ended(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"ended": len(ended_streams)})


class ThreadNamingStream(StreamingHttpResponse):
    def close(self) -> None:
        closed_in.append(threading.get_ident())
        super().close()


closed_in: list[int] = []


def stream_with_close(request: HttpRequest) -> ThreadNamingStream:
    return ThreadNamingStream(iter([str(threading.get_ident())]))


async def async_stream_with_close(request: HttpRequest) -> ThreadNamingStream:
    ident = await sync_to_async(threading.get_ident)()

    async def parts() -> AsyncIterator[str]:
        yield str(ident)

    return ThreadNamingStream(parts())


async def closed_in_threads(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"threads": [str(ident) for ident in closed_in]})


class BareStream(HttpResponseBase):
    """A streaming response as of a library: it has no `is_async`."""

    streaming = True

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"first ", b"second"])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def bare_stream(request: HttpRequest) -> BareStream:
    return BareStream()


async def async_bare_stream(request: HttpRequest) -> BareStream:
    return BareStream()


# Downloads.


def download(request: HttpRequest) -> FileResponse:
    return FileResponse(FILE.open("rb"))


async def async_download(request: HttpRequest) -> FileResponse:
    return FileResponse(FILE.open("rb"))


def iterator(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        with FILE.open("rb") as file:
            while part := file.read(65536):
                yield part

    return StreamingHttpResponse(parts())


async def async_iterator(request: HttpRequest) -> StreamingHttpResponse:
    return iterator(request)


# Requests that are read after their response was sent.


def read_file(request: HttpRequest) -> int:
    file = request.FILES["file"]
    assert isinstance(file, UploadedFile)
    return len(file.read())


READERS: dict[str, Callable[[HttpRequest], int]] = {
    "body": lambda request: len(request.body),
    "POST": lambda request: len(request.POST["text"]),
    "FILES": read_file,
}
tasks: list[tuple[asyncio.Event | threading.Event, Callable[[], Awaitable[object]]]] = []


@csrf_exempt
async def read_in_task(request: HttpRequest, what: str, when: str) -> HttpResponse:
    answered = asyncio.Event()

    async def work() -> int:
        if when == "answered":
            await answered.wait()
        return READERS[what](request)

    task = asyncio.create_task(work())
    tasks.append((answered, lambda: task))
    return HttpResponse(status=202)


@csrf_exempt
def read_in_thread(request: HttpRequest, what: str, when: str) -> HttpResponse:
    answered = threading.Event()
    found: list[object] = []

    def work() -> None:
        if when == "answered":
            answered.wait()
        try:
            found.append(READERS[what](request))
        except Exception as error:  # noqa: BLE001 (the client sees it)
            found.append(repr(error))

    thread = threading.Thread(target=work)
    thread.start()

    def wait() -> object:
        thread.join()
        return found[0]

    tasks.append((answered, sync_to_async(wait, thread_sensitive=False)))
    return HttpResponse(status=202)


async def result(request: HttpRequest) -> JsonResponse:
    answered, get_result = tasks.pop()
    answered.set()
    try:
        return JsonResponse({"read": await get_result()})
    except Exception as error:  # noqa: BLE001 (the client sees it)
        return JsonResponse({"read": repr(error)})


# State of a connection.


def change_connection(what: str) -> None:
    connection.ensure_connection()
    if what == "debug":
        connection.force_debug_cursor = True
    elif what == "wrappers":
        connection.execute_wrappers.append(lambda execute, *args: execute(*args))
    else:
        setattr(connection, "panel", "an old one")  # noqa: B010 (a connection's type has no such attribute)


def mark_connection(request: HttpRequest, what: str) -> HttpResponse:
    change_connection(what)
    return HttpResponse("marked")


async def async_mark_connection(request: HttpRequest, what: str) -> HttpResponse:
    await sync_to_async(change_connection)(what)
    return HttpResponse("marked")


def connection_state(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "debug": connection.force_debug_cursor,
            "wrappers": len(connection.execute_wrappers),
            "panel": getattr(connection, "panel", None),
        }
    )


def cache_get(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"value": cache.get_or_set("key", "value")})


async def async_cache_get(request: HttpRequest) -> JsonResponse:
    # django-valkey has no async methods.
    get_or_set = getattr(cache, "aget_or_set", None) or sync_to_async(cache.get_or_set)
    return JsonResponse({"value": await get_or_set("key", "value")})


async def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("nothing")
