"""Django's middleware for the event loop, and what the project adds to it.

Django calls `process_request` and `process_response` of its middleware in a thread, since they might
do I/O. The subclasses call them directly, and in a thread only when they really will.
"""

from collections.abc import Callable
{% if cookiecutter.django_version == "5.2" %}
from functools import lru_cache
{% endif %}
from typing import Any

from asgiref.sync import sync_to_async
{% if cookiecutter.django_version == "5.2" %}
from csp import middleware as csp
{% endif %}
from django.conf import settings
from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
{% if cookiecutter.django_version == "5.2" %}
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders
from django.middleware import clickjacking, common, csrf, security
{% else %}
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware import clickjacking, common, csp, csrf, security
{% endif %}
from django.utils.cache import has_vary_header, patch_cache_control
from django.utils.deprecation import MiddlewareMixin


class AsyncMiddlewareMixin:
    """Put it before a class that is made with Django's MiddlewareMixin and does no I/O.

    That class must keep nothing in the thread either, such as in a `threading.local`: on the event
    loop all requests share one thread, so that they would see what others keep there.
    """

    # Set by MiddlewareMixin.
    get_response: Any

    def does_io(self, request: HttpRequest) -> bool:
        """Say whether the next method will. Called before `process_request` and `process_response`."""
        return False

    # Replaces MiddlewareMixin.__acall__, which is not in Django's documentation.
    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        response: Any = None
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


# With one of these in Cache-Control, a view has decided whether a shared cache may store its response.
SHARED_CACHE_DIRECTIVES = ("public", "private", "no-store", "s-maxage")


class CacheControlMiddleware(AsyncMiddlewareMixin, MiddlewareMixin):
    """Forbids shared caches to store responses that depend on cookies, or set one.

    Django marks them with `Vary: Cookie`, which not every cache follows: a page with one user's name
    would be shown to the next one. What a view says about shared caches stays as it is.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        if has_vary_header(response, "Cookie") or response.cookies:
            response.headers.setdefault("Cache-Control", "private")
            cache_control = response.headers["Cache-Control"].lower()
            if not any(directive in cache_control for directive in SHARED_CACHE_DIRECTIVES):
                patch_cache_control(response, private=True)
        return response


class SecurityMiddleware(AsyncMiddlewareMixin, security.SecurityMiddleware): ...


{% if cookiecutter.django_version == "5.2" %}
class CSPMiddleware(AsyncMiddlewareMixin, csp.CSPMiddleware):
    """Remembers the usual policy. To build it takes django-csp a tenth of a request."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        # A subclass, a nonce or a decorator may want another policy.
        own = type(self) is not CSPMiddleware or getattr(request, "_csp_nonce", None)
        marked = any(name.startswith("_csp") for name in vars(response))
        if settings.DEBUG or own or marked or len(request.path_info) > 200:
            return super().process_response(request, response)
        for name, value in usual_policy(self, request.path_info).items():
            response.headers.setdefault(name, value)
        # As django-csp does: a nonce that is made now would stand in no header.
        vars(request)["csp_nonce"] = csp.CheckableLazyObject(self._csp_nonce_post_response)
        return response


@lru_cache(4096)
def usual_policy(middleware: CSPMiddleware, path: str) -> ResponseHeaders:
    request, response = HttpRequest(), HttpResponse()
    request.path_info = path
    del response.headers["Content-Type"]
    return csp.CSPMiddleware.process_response(middleware, request, response).headers


{% else %}
class ContentSecurityPolicyMiddleware(
    AsyncMiddlewareMixin, csp.ContentSecurityPolicyMiddleware
): ...


{% endif %}
class SessionMiddleware(AsyncMiddlewareMixin, sessions.SessionMiddleware):
    def does_io(self, request: HttpRequest) -> bool:
        session = getattr(request, "session", None)
        return settings.SESSION_SAVE_EVERY_REQUEST or getattr(session, "modified", False)


class CommonMiddleware(AsyncMiddlewareMixin, common.CommonMiddleware): ...


class CsrfViewMiddleware(AsyncMiddlewareMixin, csrf.CsrfViewMiddleware):
    def does_io(self, request: HttpRequest) -> bool:
        return settings.CSRF_USE_SESSIONS

    @property
    def process_view(self) -> Callable[..., Any]:
        return self.process_view_on_loop if self.async_mode else super().process_view

    async def process_view_on_loop(
        self, request: HttpRequest, *args: Any
    ) -> HttpResponseBase | None:
        # It may read the body of a POST, and show CSRF_FAILURE_VIEW after the others.
        if request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            return super().process_view(request, *args)
        return await sync_to_async(super().process_view)(request, *args)


class AuthenticationMiddleware(AsyncMiddlewareMixin, auth.AuthenticationMiddleware): ...


class MessageMiddleware(AsyncMiddlewareMixin, messages.MessageMiddleware):
    def does_io(self, request: HttpRequest) -> bool:
        storage = getattr(request, "_messages", None)
        return storage is not None and (storage.used or storage.added_new)


class XFrameOptionsMiddleware(AsyncMiddlewareMixin, clickjacking.XFrameOptionsMiddleware): ...


def path_of(middleware: type) -> str:
    return f"{middleware.__module__}.{middleware.__qualname__}"


# By the name in MIDDLEWARE, what the handler loads in its place.
ASYNC_REPLACEMENTS = {
    path_of(django_class): path_of(replacement)
    for django_class, replacement in (
        (security.SecurityMiddleware, SecurityMiddleware),
{% if cookiecutter.django_version == "5.2" %}
        (csp.CSPMiddleware, CSPMiddleware),
{% else %}
        (csp.ContentSecurityPolicyMiddleware, ContentSecurityPolicyMiddleware),
{% endif %}
        (sessions.SessionMiddleware, SessionMiddleware),
        (common.CommonMiddleware, CommonMiddleware),
        (csrf.CsrfViewMiddleware, CsrfViewMiddleware),
        (auth.AuthenticationMiddleware, AuthenticationMiddleware),
        (messages.MessageMiddleware, MessageMiddleware),
        (clickjacking.XFrameOptionsMiddleware, XFrameOptionsMiddleware),
    )
}
