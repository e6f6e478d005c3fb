"""Django's ASGI handler without a thread for every request.

Sync views run as under WSGI: middleware and view in one go, in one thread. Async views stay on the
event loop, middleware included, and borrow a thread when they first need one.
"""

import asyncio
import gc
from contextlib import closing
from functools import lru_cache

import django
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core import signals
from django.core.exceptions import RequestAborted

# Not in Django's documentation: what comes from these three, `connections.settings`,
# `Signal.receivers` and `_resource_closers` of a response.
from django.core.handlers import asgi, base, exception
from django.db import close_old_connections, connections, reset_queries
from django.http.response import HttpResponseBase
from django.urls import get_resolver, resolve, set_script_prefix

from . import threads
from .monitoring import HEALTH_PATHS


def get_asgi_application():
    """As `django.core.asgi.get_asgi_application`, but quicker, and it answers lifespan."""
    django.setup(set_prefix=False)
    handler = ASGIHandler()
    get_resolver().url_patterns  # noqa: B018 (loads all views: a mistake in one shows now, not later)
    # What is loaded now stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    return handler


class ASGIHandler(asgi.ASGIHandler):
    def __init__(self):
        super().__init__()
        self.respond_in_thread = sync_to_async(self.make_response_in_thread)
        self.sync_handler = base.BaseHandler()
        self.sync_handler.load_middleware(is_async=False)
        for database in connections.settings.values():
            if not database["OPTIONS"].get("pool"):  # which keeps connections itself
                database["CONN_MAX_AGE"] = settings.ASGI_CONN_MAX_AGE
        # What these do is for a thread and its connections: threads.py does it where one is used.
        for receiver in (reset_queries, close_old_connections):
            signals.request_started.disconnect(receiver)
            signals.request_finished.disconnect(receiver)

    def load_middleware(self, is_async=False):
        from .middleware import INSTEAD  # not before Django is set up: it imports models

        names = settings.MIDDLEWARE
        settings.MIDDLEWARE = [INSTEAD.get(name, name) for name in names]
        try:
            super().load_middleware(is_async)
        finally:
            settings.MIDDLEWARE = names

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            return await super().__call__(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        threads.pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def handle(self, scope, receive, send):
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return
        response = None

        async def respond():
            nonlocal response
            response = await self.make_response(scope, body_file, loan)
            await self.send_response(response, send_part)

        async def send_part(message):
            # A synchronous stream has been read, in its thread, when the first part of it is sent.
            if response.streaming and (response.is_async or "body" in message):
                loan.close()
            await send(message)  # which waits for slow clients

        with body_file, closing(await threads.borrow_threads()) as loan:
            set_script_prefix(asgi.get_script_prefix(scope))
            await signals.request_started.asend(sender=self.__class__, scope=scope)
            await self.while_connected(receive, respond())
            if response is None:
                # A thread may still be at work on the request. Django's own receivers are synchronous,
                # so that this waits for it, and the body is not closed before.
                await signals.request_finished.asend(sender=self.__class__)
            elif response.streaming or not loan.closed:  # or else it is closed
                await sync_to_async(response.close)()

    async def make_response(self, scope, body_file, loan):
        path = scope["path"].removeprefix(asgi.get_script_prefix(scope).rstrip("/"))
        # Long ones are not remembered: whoever asks for many would fill the memory.
        if len(path) <= 200 and not has_async_view(path, settings.ROOT_URLCONF):
            return await self.respond_in_thread(scope, body_file, loan)
        request, response = self.create_request(scope, body_file)
        return close_if_quick(response or await self.run_get_response(request), loan)

    def make_response_in_thread(self, scope, body_file, loan):
        request, response = self.create_request(scope, body_file)
        response = response or self.sync_handler.get_response(request)
        response._handler_class = self.__class__
        if isinstance(response, asgi.FileResponse):
            response.block_size = self.chunk_size
        return close_if_quick(response, loan)

    async def while_connected(self, receive, answer):
        """Await `answer`, and cancel it when the client leaves."""

        async def listen():
            try:
                await self.listen_for_disconnect(receive)
            except RequestAborted:
                deadline.reschedule(0)

        # Not a TaskGroup: it would wait for the listener to end, and with many clients so many requests
        # would then be in memory at a time that the garbage collector took a fifth of it.
        try:
            async with asyncio.timeout(None) as deadline:
                listener = asyncio.create_task(listen())
                await answer
        except TimeoutError:
            if not deadline.expired():
                raise
        finally:
            if not listener.cancel():
                listener.result()

    async def _get_response_async(self, request):
        # Django makes the error pages in threads of the loop's own; a page that shows the user would
        # open a connection there that nobody looks after.
        try:
            return await super()._get_response_async(request)
        except Exception as error:  # noqa: BLE001 (as Django does)
            return await sync_to_async(exception.response_for_exception)(request, error)


def close_if_quick(response, loan):
    """Close it before it is sent, and give the thread back, if that calls nothing but Django's own code.

    Code of the project's runs in the request's thread, after the client, slow or not, has the answer.
    """
    as_django = getattr(response.close, "__func__", None) is HttpResponseBase.close
    # Django has a closer of its own, for uploads, and two receivers, for the caches and the URLconf.
    alone = len(response._resource_closers) <= 1 and len(signals.request_finished.receivers) <= 2
    if as_django and alone and not response.streaming:
        response.close()
        loan.close()
    return response


# Without the cache, to resolve the path twice (Django does so again) would be a quarter of the work.
@lru_cache(4096)
def has_async_view(path, urlconf):
    """A guess, since middleware may change the URLconf: a wrong one costs time and a thread."""
    try:
        # Health checks must be answered even if all threads are at work.
        return path in HEALTH_PATHS or iscoroutinefunction(resolve(path, urlconf).func)
    except Exception:  # noqa: BLE001 (not found, or the URLconf is broken: Django will say it)
        return True
