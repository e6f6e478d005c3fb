"""Mixins that run Django's middleware on the event loop.

Django calls `process_request` and `process_response` of its middleware in a thread, since they
might do I/O. The mixins of this module call them directly, and use a thread only for I/O.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib import auth

# Not in Django's documentation.
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string


class AsyncMiddlewareMixin:
    """Runs a middleware on the event loop instead of in a thread.

    The middleware must be based on Django's MiddlewareMixin, and must do no I/O. In the bases of a
    class, list this mixin before the middleware. The middleware must not use `threading.local`: on
    the event loop, all requests share one thread, and would see each other's values.
    """

    # Set by MiddlewareMixin.
    get_response: Any
    async_mode: bool

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        super().__init__(get_response)  # type: ignore[call-arg]
        # Consecutive middleware of this kind runs in the coroutine of the first one. Otherwise,
        # each would add two coroutines, its own and Django's wrapper. Together, these take a tenth
        # of the time of a short request.
        self.chain = [self]
        self.get_inner_response = get_response
        # Not in Django's documentation: Django's wrapper of middleware has this attribute.
        following = getattr(get_response, "__wrapped__", None)
        if isinstance(following, AsyncMiddlewareMixin):
            self.chain += following.chain
            self.get_inner_response = following.get_inner_response
        self.process_request_hook = getattr(self, "process_request", None)
        self.process_response_hook = getattr(self, "process_response", None)

    def does_io(self, request: HttpRequest) -> bool:
        """Return whether the next hook, `process_request` or `process_response`, does I/O."""
        return False

    # Replaces MiddlewareMixin.__acall__, which is not in Django's documentation.
    async def __acall__(self, request: HttpRequest) -> Any:
        entered: list[AsyncMiddlewareMixin] = []
        response = None
        for middleware in self.chain:
            if hook := middleware.process_request_hook:
                try:
                    if middleware.does_io(request):
                        response = await sync_to_async(hook)(request)
                    else:
                        response = hook(request)
                except Exception as error:  # noqa: BLE001 (as Django does around each middleware)
                    response = await sync_to_async(response_for_exception)(request, error)
                    break
            entered.append(middleware)
            if response:
                break
        else:
            response = await self.get_inner_response(request)
        for middleware in reversed(entered):
            if hook := middleware.process_response_hook:
                try:
                    if middleware.does_io(request):
                        response = await sync_to_async(hook)(request, response)
                    else:
                        response = hook(request, response)
                except Exception as error:  # noqa: BLE001 (as above)
                    response = await sync_to_async(response_for_exception)(request, error)
        return response


class AsyncSessionMixin(AsyncMiddlewareMixin):
    def does_io(self, request: HttpRequest) -> bool:
        session = getattr(request, "session", None)
        return settings.SESSION_SAVE_EVERY_REQUEST or getattr(session, "modified", False)


class AsyncAuthenticationMixin(AsyncMiddlewareMixin):
    """Makes `request.auser` load the session and the user with a single call in a thread.

    Django makes two calls, which makes a page that shows the user a fifth slower.
    """

    def process_request(self, request: Any) -> None:
        super().process_request(request)  # type: ignore[misc]
        if loads_users_alike(request.session.__class__, *settings.AUTHENTICATION_BACKENDS):
            request.auser = partial(auser, request)


@lru_cache
def loads_users_alike(session_class: type, *backends: str) -> bool:
    """Return whether `auth.get_user` and `auth.aget_user` are equivalent with these classes."""
    classes = [type(auth.load_backend(path)) for path in backends]
    return has_same_async_method(session_class, "load") and all(
        has_same_async_method(each, "get_user") for each in classes
    )


def has_same_async_method(owner: type, name: str) -> bool:
    """Return whether a method and its async variant come from the same class.

    In a subclass that overrides only one of them, the two may behave differently.
    """
    for each in owner.__mro__:
        if defined := vars(each).keys() & {name, f"a{name}"}:
            return len(defined) == 2
    return True


async def auser(request: Any) -> Any:
    if not hasattr(request, "_acached_user"):
        # Without a session, there is nothing to load, and Django's function uses no thread.
        has_session = request.session.session_key is not None
        get_user = sync_to_async(auth.get_user) if has_session else auth.aget_user
        request._acached_user = await get_user(request)
    return request._acached_user


class AsyncCsrfMixin(AsyncMiddlewareMixin):
    def does_io(self, request: HttpRequest) -> bool:
        return settings.CSRF_USE_SESSIONS

    @property
    def process_view(self) -> Callable[..., Any]:
        return self.process_view_on_loop if self.async_mode else self.process_view_in_thread

    @property
    def process_view_in_thread(self) -> Callable[..., Any]:
        # The `process_view` of the middleware that follows this mixin in the bases.
        return super().process_view  # type: ignore[misc, no-any-return]

    async def process_view_on_loop(self, request: HttpRequest, *args: Any) -> Any:
        # With other HTTP methods, Django may read the body or call CSRF_FAILURE_VIEW.
        if request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            return self.process_view_in_thread(request, *args)
        return await sync_to_async(self.process_view_in_thread)(request, *args)


class AsyncMessageMixin(AsyncMiddlewareMixin):
    """Creates the message storage when it is first used.

    Few views use it, and creating it takes a twelfth of the time of a short request.
    """

    def does_io(self, request: Any) -> bool:
        storage = getattr(request, "_messages", None)
        if storage is None or is_unused(storage):
            return False
        return bool(storage.used or storage.added_new)

    def process_request(self, request: Any) -> None:
        def make_storage() -> Any:
            super(AsyncMessageMixin, self).process_request(request)  # type: ignore[misc]
            return request._messages

        request._messages = SimpleLazyObject(make_storage)

    def process_response(self, request: Any, response: HttpResponseBase) -> Any:
        if is_unused(getattr(request, "_messages", None)):
            return response
        return super().process_response(request, response)  # type: ignore[misc]


def is_unused(storage: object) -> bool:
    return type(storage) is SimpleLazyObject  # isinstance() would create the storage


# The mixins that the handler adds to middleware in MIDDLEWARE.
ASYNC_MIXINS: dict[str, type[AsyncMiddlewareMixin]] = {
    "django.contrib.auth.middleware.AuthenticationMiddleware": AsyncAuthenticationMixin,
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
    """Import a middleware by its dotted path, and add its mixin if it has one."""
    middleware = import_string(name)
    if mixin := ASYNC_MIXINS.get(name):
        attributes = {"__doc__": middleware.__doc__, "__module__": middleware.__module__}
        return type(middleware.__name__, (mixin, middleware), attributes)
    return middleware
