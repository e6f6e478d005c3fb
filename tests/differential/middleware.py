"""Middleware as projects have it: one returns responses and raises errors itself, one uses MiddlewareMixin; both in both modes."""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.deprecation import MiddlewareMixin


class ShortCutMiddleware:
    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self.__acall__(request)
        return answer(request) or self.get_response(request)

    async def __acall__(self, request: HttpRequest) -> Any:
        return answer(request) or await self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: object, kwargs: object
    ) -> HttpResponse | None:
        if request.headers.get("X-Do") == "process_view":
            return HttpResponse("from process_view")
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if request.headers.get("X-Do") == "process_exception":
            return HttpResponse(f"handled {error}", status=503)
        return None

    def process_template_response(self, request: HttpRequest, response: TemplateResponse) -> TemplateResponse:
        response.context_data = {**(response.context_data or {}), "number": "changed"}
        return response


def answer(request: HttpRequest) -> HttpResponse | None:
    if request.headers.get("X-Do") == "answer":
        return HttpResponse("from middleware")
    if request.headers.get("X-Do") == "break":
        raise RuntimeError("middleware broke")
    if request.headers.get("X-Do") == "urlconf":
        request.urlconf = "accounts.urls"
    return None


class MixinMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        request.META["mixed"] = True
        if request.headers.get("X-Do") == "process_request":
            return HttpResponse("from process_request")
        return None

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response["X-Mixed"] = str(request.META.get("mixed"))
        return response
