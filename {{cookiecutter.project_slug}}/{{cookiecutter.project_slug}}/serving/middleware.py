"""Django's middleware for the event loop.

Django calls `process_request` and `process_response` of its middleware in a thread, since they might
do I/O. These subclasses call them directly, and in a thread only when they really will.
"""

{% if cookiecutter.django_version == "5.2" %}
from functools import cached_property

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


async def call(process, *args, in_thread):
    return await sync_to_async(process)(*args) if in_thread else process(*args)


class OnLoop:
    """Put it before a class that is made with Django's MiddlewareMixin and never does I/O."""

    def request_needs_thread(self, request):
        return False

    def response_needs_thread(self, request, response):
        return False

    # Replaces MiddlewareMixin.__acall__, which is not in Django's documentation.
    async def __acall__(self, request):
        response = None
        if hasattr(self, "process_request"):
            in_thread = self.request_needs_thread(request)
            response = await call(self.process_request, request, in_thread=in_thread)
        response = response or await self.get_response(request)
        if hasattr(self, "process_response"):
            in_thread = self.response_needs_thread(request, response)
            response = await call(self.process_response, request, response, in_thread=in_thread)
        return response


class SecurityMiddleware(OnLoop, security.SecurityMiddleware):
    pass


{% if cookiecutter.django_version == "5.2" %}
class CSPMiddleware(OnLoop, csp.CSPMiddleware):
    """Builds the usual policy once. django-csp builds it for each response, a tenth of a request."""

    @cached_property
    def usual_headers(self):
        request, response = HttpRequest(), HttpResponse()
        self.process_request(request)
        return super().process_response(request, response).headers

    def process_response(self, request, response):
        changed = getattr(request, "_csp_nonce", None)
        if changed or any(name.startswith("_csp") for name in vars(response)):
            return super().process_response(request, response)
        for name, value in self.usual_headers.items():
            response.headers.setdefault(name, value)
        return response
{% else %}
class ContentSecurityPolicyMiddleware(OnLoop, csp.ContentSecurityPolicyMiddleware):
    pass
{% endif %}


class SessionMiddleware(OnLoop, sessions.SessionMiddleware):
    def response_needs_thread(self, request, response):
        session = getattr(request, "session", None)
        return settings.SESSION_SAVE_EVERY_REQUEST or getattr(session, "modified", False)


class CommonMiddleware(OnLoop, common.CommonMiddleware):
    pass


class CsrfViewMiddleware(OnLoop, csrf.CsrfViewMiddleware):
    def __init__(self, get_response):
        super().__init__(get_response)
        if self.async_mode:  # not as a method: Django would take it for async in sync mode, too
            self.process_view = self.process_view_on_loop

    def request_needs_thread(self, request):
        return settings.CSRF_USE_SESSIONS

    def response_needs_thread(self, request, response):
        return settings.CSRF_USE_SESSIONS

    async def process_view_on_loop(self, request, *args):
        # It may read the body of a POST, and show CSRF_FAILURE_VIEW after the others.
        unsafe = request.method not in ("GET", "HEAD", "OPTIONS", "TRACE")
        return await call(super().process_view, request, *args, in_thread=unsafe)


class AuthenticationMiddleware(OnLoop, auth.AuthenticationMiddleware):
    pass


class MessageMiddleware(OnLoop, messages.MessageMiddleware):
    def response_needs_thread(self, request, response):
        storage = getattr(request, "_messages", None)
        return getattr(storage, "used", True) or getattr(storage, "added_new", True)


class XFrameOptionsMiddleware(OnLoop, clickjacking.XFrameOptionsMiddleware):
    pass


def path_of(middleware):
    return f"{middleware.__module__}.{middleware.__qualname__}"


# What to take instead, by the names that stand in MIDDLEWARE: {Django's class: the one above}.
INSTEAD = {path_of(ours.__mro__[2]): path_of(ours) for ours in OnLoop.__subclasses__()}
