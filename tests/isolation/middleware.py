"""Middleware that sets the tenant, in the three forms of middleware; the path decides which of them is called."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.utils.deprecation import MiddlewareMixin
from django_tenants.middleware.main import TenantMainMiddleware

from .programs import PROGRAMS, set_owner


def parts_of(request: HttpRequest) -> list[str]:
    """`/isolation/<program>/<owner>/<kind>/<number>/`: ["isolation", program, owner, kind, number]."""
    return request.path_info.strip("/").split("/")


def set_owner_of(request: HttpRequest) -> None:
    _, program, owner, *_ = parts_of(request)
    set_owner(program, owner)


def sync_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Sync only, as most middleware is."""

    def middleware(request: HttpRequest) -> Any:
        set_owner_of(request)
        return get_response(request)

    return middleware


class BothModesMiddleware:
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self.__acall__(request)
        set_owner_of(request)
        return self.get_response(request)

    async def __acall__(self, request: HttpRequest) -> Any:
        await sync_to_async(set_owner_of)(request)
        return await self.get_response(request)


class MixinMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        set_owner_of(request)


class ProgramMiddleware:
    """Calls one of them, as Django would if it were the only one."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.tenants = TenantMainMiddleware(get_response)
        self.forms: list[Callable[[HttpRequest], Any]] = [
            BothModesMiddleware(get_response),
            MixinMiddleware(get_response),
            adapt_sync(get_response),
        ]
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        _, program, _, kind, number = (parts_of(request) + 5 * [""])[:5]
        if program not in PROGRAMS:
            return self.get_response(request)
        if program == "schema":
            return self.tenants(request)
        # With sync middleware asgiref rejects calls of a task that outlives its request.
        forms = self.forms[:2] if kind == "late" else self.forms
        return forms[int(number) % len(forms)](request)


def adapt_sync(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Adapt sync middleware as Django does."""
    if iscoroutinefunction(get_response):
        return sync_to_async(sync_middleware(async_to_sync(get_response)), thread_sensitive=True)
    return sync_middleware(get_response)
