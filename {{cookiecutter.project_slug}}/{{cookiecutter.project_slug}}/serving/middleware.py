"""Django's middleware for the event loop.

Django calls `process_request` and `process_response` of its middleware in a thread, since they might
do I/O. These subclasses call them directly, and in a thread only when they really will.
"""

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import middleware as auth
from django.contrib.messages import middleware as messages
from django.contrib.sessions import middleware as sessions
from django.middleware import clickjacking, common, csrf, security

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


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
            process = self.process_request
            needs_thread = self.request_needs_thread(request)
            response = await sync_to_async(process)(request) if needs_thread else process(request)
        response = response or await self.get_response(request)
        if hasattr(self, "process_response"):
            process = self.process_response
            if self.response_needs_thread(request, response):
                return await sync_to_async(process)(request, response)
            return process(request, response)
        return response


class SecurityMiddleware(OnLoop, security.SecurityMiddleware):
    pass


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
        check = super().process_view
        if request.method in SAFE_METHODS:
            return check(request, *args)
        return await sync_to_async(check)(request, *args)  # it may read the body


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
