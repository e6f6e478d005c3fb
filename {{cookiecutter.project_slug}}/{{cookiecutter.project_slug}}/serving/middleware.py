"""Django's middleware for the event loop.

Django calls `process_request` and `process_response` of its middleware in a thread, since they might
do I/O. These subclasses call them directly, and in a thread only when they really will.
"""

{% if cookiecutter.django_version == "5.2" %}
from functools import lru_cache

{% endif %}
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
from django.middleware import clickjacking, common, csrf, security
{% else %}
from django.middleware import clickjacking, common, csp, csrf, security
{% endif %}


class OnLoop:
    """Put it before a class that is made with Django's MiddlewareMixin and never does I/O."""

    def needs_thread(self, request):
        """Will its next method do I/O? Asked before `process_request` and before `process_response`."""
        return False

    # Replaces MiddlewareMixin.__acall__, which is not in Django's documentation.
    async def __acall__(self, request):
        response = None
        if hasattr(self, "process_request"):
            response = await self.call_method(self.process_request, request)
        response = response or await self.get_response(request)
        if hasattr(self, "process_response"):
            response = await self.call_method(self.process_response, request, response)
        return response

    async def call_method(self, method, request, *args):
        if self.needs_thread(request):
            return await sync_to_async(method)(request, *args)
        return method(request, *args)


class SecurityMiddleware(OnLoop, security.SecurityMiddleware): ...


{% if cookiecutter.django_version == "5.2" %}
class CSPMiddleware(OnLoop, csp.CSPMiddleware):
    """Remembers the usual policy. To build it takes django-csp a tenth of a request."""

    def process_response(self, request, response):
        path = request.path_info
        changed = settings.DEBUG or getattr(request, "_csp_nonce", None) or len(path) > 200
        if changed or any(name.startswith("_csp") for name in vars(response)):
            return super().process_response(request, response)
        for name, value in usual_policy(self, path).items():
            response.headers.setdefault(name, value)
        return response


@lru_cache(4096)
def usual_policy(middleware, path):
    request, response = HttpRequest(), HttpResponse()
    request.path_info = path
    del response.headers["Content-Type"]
    return csp.CSPMiddleware.process_response(middleware, request, response).headers


{% else %}
class ContentSecurityPolicyMiddleware(OnLoop, csp.ContentSecurityPolicyMiddleware): ...


{% endif %}
class SessionMiddleware(OnLoop, sessions.SessionMiddleware):
    def needs_thread(self, request):
        session = getattr(request, "session", None)
        return settings.SESSION_SAVE_EVERY_REQUEST or getattr(session, "modified", False)


class CommonMiddleware(OnLoop, common.CommonMiddleware): ...


class CsrfViewMiddleware(OnLoop, csrf.CsrfViewMiddleware):
    def needs_thread(self, request):
        return settings.CSRF_USE_SESSIONS

    @property
    def process_view(self):
        return self.process_view_on_loop if self.async_mode else super().process_view

    async def process_view_on_loop(self, request, *args):
        # It may read the body of a POST, and show CSRF_FAILURE_VIEW after the others.
        if request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            return super().process_view(request, *args)
        return await sync_to_async(super().process_view)(request, *args)


class AuthenticationMiddleware(OnLoop, auth.AuthenticationMiddleware): ...


class MessageMiddleware(OnLoop, messages.MessageMiddleware):
    def needs_thread(self, request):
        storage = getattr(request, "_messages", None)
        return storage is not None and (storage.used or storage.added_new)


class XFrameOptionsMiddleware(OnLoop, clickjacking.XFrameOptionsMiddleware): ...


def path_of(middleware):
    return f"{middleware.__module__}.{middleware.__qualname__}"


# What to take instead, by the names that stand in MIDDLEWARE: {Django's class: the one above}.
INSTEAD = {path_of(ours.__mro__[2]): path_of(ours) for ours in OnLoop.__subclasses__()}
