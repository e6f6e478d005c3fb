"""Django's middleware on the event loop.

Django calls `process_request` and `process_response` of its middleware in a thread, since they might
do I/O. With the mixins of this module they are called directly, and in a thread only if they do I/O.
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest
from django.utils.module_loading import import_string


class AsyncMiddlewareMixin:
    """Put it before a class that is made with Django's MiddlewareMixin and does no I/O.

    That class must keep nothing in the thread either, such as in a `threading.local`: on the event
    loop all requests share one thread, so that they would see what others keep there.
    """

    # Set by MiddlewareMixin.
    get_response: Any
    async_mode: bool

    def does_io(self, request: HttpRequest) -> bool:
        """Say whether the next method will. Called before `process_request` and `process_response`."""
        return False

    # Replaces MiddlewareMixin.__acall__, which is not in Django's documentation.
    async def __acall__(self, request: HttpRequest) -> Any:
        response = None
        if hasattr(self, "process_request"):
            response = await self.call_method(self.process_request, request)
        response = response or await self.get_response(request)
        if hasattr(self, "process_response"):
            response = await self.call_method(self.process_response, request, response)
        return response

    async def call_method(
        self, method: Callable[..., Any], request: HttpRequest, *args: Any
    ) -> Any:
        if self.does_io(request):
            return await sync_to_async(method)(request, *args)
        return method(request, *args)


class AsyncSessionMixin(AsyncMiddlewareMixin):
    def does_io(self, request: HttpRequest) -> bool:
        session = getattr(request, "session", None)
        return settings.SESSION_SAVE_EVERY_REQUEST or getattr(session, "modified", False)


class AsyncCsrfMixin(AsyncMiddlewareMixin):
    def does_io(self, request: HttpRequest) -> bool:
        return settings.CSRF_USE_SESSIONS

    @property
    def process_view(self) -> Callable[..., Any]:
        return self.process_view_on_loop if self.async_mode else self.process_view_in_thread

    @property
    def process_view_in_thread(self) -> Callable[..., Any]:
        # Of the class that this one is put before.
        return super().process_view  # type: ignore[misc, no-any-return]

    async def process_view_on_loop(self, request: HttpRequest, *args: Any) -> Any:
        # It may read the body of a POST, and show CSRF_FAILURE_VIEW after the others.
        if request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            return self.process_view_in_thread(request, *args)
        return await sync_to_async(self.process_view_in_thread)(request, *args)


class AsyncMessageMixin(AsyncMiddlewareMixin):
    def does_io(self, request: HttpRequest) -> bool:
        storage = getattr(request, "_messages", None)
        return storage is not None and (storage.used or storage.added_new)


# What the handler puts before the middleware that it finds in MIDDLEWARE.
ASYNC_MIXINS: dict[str, type[AsyncMiddlewareMixin]] = {
    "django.contrib.auth.middleware.AuthenticationMiddleware": AsyncMiddlewareMixin,
    "django.contrib.messages.middleware.MessageMiddleware": AsyncMessageMixin,
    "django.contrib.sessions.middleware.SessionMiddleware": AsyncSessionMixin,
    "django.middleware.clickjacking.XFrameOptionsMiddleware": AsyncMiddlewareMixin,
    "django.middleware.common.CommonMiddleware": AsyncMiddlewareMixin,
    "django.middleware.csp.ContentSecurityPolicyMiddleware": AsyncMiddlewareMixin,
    "django.middleware.csrf.CsrfViewMiddleware": AsyncCsrfMixin,
    "django.middleware.locale.LocaleMiddleware": AsyncMiddlewareMixin,
    "django.middleware.security.SecurityMiddleware": AsyncMiddlewareMixin,
}


def import_async_middleware(name: str) -> Any:
    """Import a middleware by its dotted path, with its mixin if it has one."""
    middleware = import_string(name)
    if mixin := ASYNC_MIXINS.get(name):
        attributes = {"__doc__": middleware.__doc__, "__module__": middleware.__module__}
        return type(middleware.__name__, (mixin, middleware), attributes)
    return middleware
