"""An ASGI handler that, unlike Django's, does not start a thread for every request.

Sync views run as under WSGI: one call in one thread runs the middleware and the view. Async views
and their middleware run on the event loop, and take a thread when they first need one.
"""

import asyncio
import atexit
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from functools import lru_cache
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Literal, cast

import django
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core import asgi as core_asgi
from django.core import signals
from django.core.cache import close_caches
from django.core.exceptions import RequestAborted, SynchronousOnlyOperation

# Not in Django's documentation: these three modules, `reset_urlconf`, `Signal.receivers`, the
# attributes `_handler_class` and `_resource_closers` of a response, and `_route` and `_regex` of a
# URL pattern.
from django.core.handlers import asgi, base, exception
from django.core.handlers.base import reset_urlconf
from django.dispatch import Signal
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, URLPattern, URLResolver, get_resolver, set_script_prefix
from django.urls.converters import DEFAULT_CONVERTERS
from django.urls.resolvers import RegexPattern, RoutePattern

from .asgi_types import ASGIApplication
from .database import persistent_connections
from .deferred_calls import wait_for_deferred_calls
from .middleware import import_async_middleware
from .streams import EventStreamResponse
from .threads import RequestThread, ThreadPool

# In django-stubs, as in Django's handler, a scope is any dict and an event is any mapping. The
# stubs lack the private attributes of responses.
Scope = dict[str, Any]
Receive = Any
Send = Any
Response = Any

# These paths get a response even if all threads are in use.
HEALTH_PATHS = ("/livez", "/readyz")
# If a stream takes longer than this, the pool starts another thread in place of the stream's.
SHORT_STREAM_SECONDS = 0.1
# Sent at the end of lifespan, or at the end of the process.
server_stopped = Signal()
ADVICE_FOR_ASYNC_VIEWS = """
An async view, or a template that it rendered, queried the database synchronously. If the template
uses `user`, write render(request, …, {"user": await request.auser()}). Otherwise use the ORM's
async methods, or write `def` instead of `async def`.
"""


def get_asgi_application(pool: ThreadPool | None = None) -> ASGIApplication:
    """Return Django's ASGI application in a faster version that supports lifespan.

    Database connections stay open between requests, as in `persistent_connections`. They are closed
    when lifespan or the process ends.
    """
    django.setup(set_prefix=False)
    handler = ASGIHandler(pool)
    handler.exit_stack.enter_context(persistent_connections())
    handler.exit_stack.callback(handler.pool.close)
    handler.exit_stack.callback(server_stopped.send_robust, sender=ASGIHandler)
    handler.exit_stack.callback(wait_for_deferred_calls)
    atexit.register(handler.exit_stack.close)  # some servers send no lifespan shutdown
    get_resolver().url_patterns  # noqa: B018 (loads all views; an error in one stops startup)
    # Loaded modules stay in memory, so the garbage collector need not check them repeatedly.
    gc.collect()
    gc.freeze()
    is_traced = hasattr(core_asgi.get_asgi_application, "__wrapped__")
    return cast(ASGIApplication, trace(handler) if is_traced else handler)


def trace(handler: "ASGIHandler") -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Let a tracer such as ddtrace, which wraps Django's function, trace each request once.

    Tracers also wrap `BaseHandler.get_response`. Sync views use it, so they bypass the other
    wrapper.
    """
    core_asgi.ASGIHandler = lambda: handler  # type: ignore[assignment, attr-defined]
    try:
        traced_handler = core_asgi.get_asgi_application()
    finally:
        core_asgi.ASGIHandler = asgi.ASGIHandler  # type: ignore[attr-defined]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        is_sync = scope["type"] == "http" and resolves_to_sync_view(scope)
        await (handler if is_sync else traced_handler)(scope, receive, send)

    return application


class ASGIRequest(asgi.ASGIRequest):
    def close(self) -> None:
        # A task or thread that the view has started may still read an in-memory body.
        if isinstance(self._stream, SpooledTemporaryFile):
            super().close()


class CachedMatchMixin:
    # Replaces BaseHandler.resolve_request, which is not in Django's documentation.
    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        resolver = get_resolver()
        if hasattr(request, "urlconf") or not is_cacheable(resolver, request.path_info):
            return super().resolve_request(request)  # type: ignore[misc, no-any-return]
        match = copy_match(get_match(resolver, request.path_info))
        request.resolver_match = match
        return match


class SyncHandler(CachedMatchMixin, base.BaseHandler):
    """Runs sync views with their middleware."""


class ASGIHandler(CachedMatchMixin, asgi.ASGIHandler):
    request_class = ASGIRequest

    def __init__(self, pool: ThreadPool | None = None) -> None:
        self.pool = pool or ThreadPool()
        self.exit_stack = ExitStack()  # closed at the end of lifespan
        super().__init__()
        self.sync_handler = SyncHandler()
        self.sync_handler.load_middleware(is_async=False)

    def load_middleware(self, is_async: bool = False) -> None:
        # Django imports each middleware with this function of its module.
        import_string = base.import_string  # type: ignore[attr-defined]
        base.import_string = import_async_middleware  # type: ignore[attr-defined]
        try:
            super().load_middleware(is_async)
        finally:
            base.import_string = import_string  # type: ignore[attr-defined]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await super().__call__(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.exit_stack.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return
        response: Response = None

        async def respond() -> None:
            nonlocal response
            response = await self.make_response(scope, body_file, request_thread)
            if response.streaming:
                await self.send_stream(response, scope, send, request_thread)
            else:
                await self.send_response(response, send)

        request_thread = await self.pool.enter_request_context(f"{scope['method']} {scope['path']}")
        try:
            set_script_prefix(asgi.get_script_prefix(scope))
            await signals.request_started.asend(sender=self.__class__, scope=scope)
            await self.cancel_on_disconnect(receive, respond())
            if response is None:
                # A thread may still use the request. Django's own receivers are synchronous, so
                # this call waits for the thread before the body is closed.
                await signals.request_finished.asend(sender=self.__class__)
            elif response.streaming or not request_thread.released:  # otherwise it is closed
                await asyncio.sleep(0)  # let tasks that the view has started read the body
                await sync_to_async(response.close)()
        finally:
            request_thread.release()
            if isinstance(body_file, SpooledTemporaryFile):
                body_file.close()

    async def read_body(self, receive: Receive) -> IO[bytes]:
        """Read the body into memory, or into a temporary file if it is large."""
        body_file = await super().read_body(receive)
        if body_file._rolled:  # type: ignore[attr-defined]
            return body_file
        with body_file:
            return BytesIO(body_file.read())

    async def make_response(
        self, scope: Scope, body_file: IO[bytes], request_thread: RequestThread
    ) -> Response:
        if resolves_to_sync_view(scope):
            get_response = sync_to_async(self.get_response_in_thread)
            return await get_response(scope, body_file, request_thread)
        request: Any  # None if there is an error response
        request, error_response = self.create_request(scope, body_file)
        response = error_response or await self.run_get_response(request)
        return close_early(response, body_file, request_thread)

    def get_response_in_thread(
        self, scope: Scope, body_file: IO[bytes], request_thread: RequestThread
    ) -> Response:
        request_thread.runs_view = True
        try:
            request: Any
            request, error_response = self.create_request(scope, body_file)
            response: Response = error_response or self.sync_handler.get_response(request)
        finally:
            request_thread.runs_view = False
        response._handler_class = self.__class__
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        return close_early(response, body_file, request_thread)

    async def send_stream(
        self, response: Response, scope: Scope, send: Send, request_thread: RequestThread
    ) -> None:
        replaceable = isinstance(response, StreamingHttpResponse)
        if replaceable and scope["method"] == "HEAD":
            # Servers drop the body of a response to HEAD, but would wait for its end.
            response.streaming_content = no_parts()
        elif replaceable and not response.is_async:
            # Django would first read the whole iterator into memory.
            response.streaming_content = iterate_in_thread(response.streaming_content)
        if isinstance(response, EventStreamResponse):
            request_thread.release()
            async with aclosing(response):  # Django closes only its own wrapper of the iterator
                return await self.send_response(response, send)
        mark = self.pool.mark_streaming
        timer = asyncio.get_running_loop().call_later(SHORT_STREAM_SECONDS, mark, request_thread)
        try:
            await self.send_response(response, send)
        finally:
            timer.cancel()

    async def cancel_on_disconnect(self, receive: Receive, respond: Awaitable[None]) -> None:
        """Await `respond`, and cancel it when the client disconnects."""
        listener: asyncio.Task[None] | None = None

        async def listen() -> None:
            try:
                await self.listen_for_disconnect(receive)
            except RequestAborted:
                deadline.reschedule(0)

        def start_listener() -> None:
            nonlocal listener
            listener = asyncio.create_task(listen())

        # The listener starts only when the view first waits. Many views never wait, and creating a
        # task costs more than scheduling a callback.
        start = asyncio.get_running_loop().call_soon(start_listener)
        # Not a TaskGroup, which would wait for the listener. With many clients, it would keep so
        # many requests in memory that garbage collection would take a fifth of the time.
        try:
            async with asyncio.timeout(None) as deadline:
                await respond
        except TimeoutError:
            if not deadline.expired():
                raise
        finally:
            start.cancel()
            if listener and not listener.cancel():
                listener.result()

    async def _get_response_async(self, request: HttpRequest) -> Response:
        # Before version 6.2, Django renders error pages in the event loop's default executor. A
        # page that shows the user would open a database connection there that nothing closes.
        try:
            return await super()._get_response_async(request)  # type: ignore[misc]  # private
        except Exception as error:  # noqa: BLE001 (as Django does)
            if isinstance(error, SynchronousOnlyOperation):
                error.add_note(ADVICE_FOR_ASYNC_VIEWS)
            return await sync_to_async(exception.response_for_exception)(request, error)


async def no_parts() -> AsyncIterator[bytes]:
    return
    yield


async def iterate_in_thread(iterator: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Iterate over a synchronous iterator, with each call in the request's thread."""
    get_next_part = sync_to_async(lambda: next(iterator, None))
    while (part := await get_next_part()) is not None:
        yield part


def close_early(
    response: Response, body_file: IO[bytes], request_thread: RequestThread
) -> Response:
    """Close the response and release its thread early, if closing it runs only Django's code.

    The project's own code may need the thread, which then stays in use until the response is sent.
    """
    close = getattr(response.close, "__func__", None)
    # Django itself adds one closer, for uploads, and these receivers.
    receivers = {key[0] for key, *_ in signals.request_finished.receivers}
    only_django = len(response._resource_closers) <= 1 and receivers <= DJANGO_RECEIVERS
    in_memory = not (response.streaming or isinstance(body_file, SpooledTemporaryFile))
    if close is HttpResponseBase.close and only_django and in_memory:
        response.close()
        request_thread.release()
    return response


# Ids of functions, as in the keys of a signal's receivers.
DJANGO_RECEIVERS = {id(close_caches), id(reset_urlconf)}
# Longer paths are not cached, since many of them would fill the memory.
MAX_CACHED_PATH_LENGTH = 200
CONVERTERS = {type(converter) for converter in DEFAULT_CONVERTERS.values()}


def resolves_to_sync_view(scope: Scope) -> bool:
    """Return whether the path probably leads to a sync view.

    Middleware may change the URLconf. A wrong guess costs only time and a thread.
    """
    path = scope["path"].removeprefix(asgi.get_script_prefix(scope).rstrip("/"))
    if len(path) > MAX_CACHED_PATH_LENGTH:
        return False
    return path not in HEALTH_PATHS and get_view_type(get_resolver(), path) == "sync"


@lru_cache(4096)
def get_view_type(resolver: URLResolver, path: str) -> Literal["async", "sync"] | None:
    try:
        return "async" if iscoroutinefunction(resolver.resolve(path).func) else "sync"
    except Exception:  # noqa: BLE001 (not found, or an invalid URLconf: Django reports it)
        return None


def is_cacheable(resolver: URLResolver, path: str) -> bool:
    return len(path) <= MAX_CACHED_PATH_LENGTH and resolves_by_path_alone(resolver)


@lru_cache
def resolves_by_path_alone(resolver: URLResolver) -> bool:
    """Return whether a path always resolves to the same match.

    With translated routes, language prefixes, and custom converters or classes, it may not.
    """
    return all(
        type(each) in (URLPattern, URLResolver)
        and type(each.pattern) in (RegexPattern, RoutePattern)
        and type(vars(each.pattern).get("_route", vars(each.pattern).get("_regex"))) is str
        and all(type(converter) in CONVERTERS for converter in each.pattern.converters.values())
        and (isinstance(each, URLPattern) or resolves_by_path_alone(each))
        for each in resolver.url_patterns
    )


# Resolving a path takes a tenth of the time of a short request. `clear_url_caches` replaces the
# resolver, so later calls do not find old entries.
@lru_cache(4096)
def get_match(resolver: URLResolver, path: str) -> ResolverMatch:
    return resolver.resolve(path)


def copy_match(match: ResolverMatch) -> ResolverMatch:
    """Return a copy of the cached match. A request may modify its copy."""
    copied: ResolverMatch = object.__new__(ResolverMatch)
    for name, value in vars(match).items():
        vars(copied)[name] = value.copy() if isinstance(value, (dict, list)) else value
    return copied
