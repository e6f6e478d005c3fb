"""Middleware as projects have it: one that answers by itself, one that changes and breaks things, both in both modes."""

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpResponse
from django.utils.deprecation import MiddlewareMixin


class ShortCutMiddleware:
    sync_capable = async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request):
        if iscoroutinefunction(self):
            return self.__acall__(request)
        return answer(request) or self.get_response(request)

    async def __acall__(self, request):
        return answer(request) or await self.get_response(request)

    def process_view(self, request, view, args, kwargs):
        if request.headers.get("X-Do") == "process_view":
            return HttpResponse("from process_view")

    def process_exception(self, request, error):
        if request.headers.get("X-Do") == "process_exception":
            return HttpResponse(f"handled {error}", status=503)

    def process_template_response(self, request, response):
        response.context_data = {**(response.context_data or {}), "number": "changed"}
        return response


def answer(request):
    if request.headers.get("X-Do") == "answer":
        return HttpResponse("from middleware")
    if request.headers.get("X-Do") == "break":
        raise RuntimeError("middleware broke")
    if request.headers.get("X-Do") == "urlconf":
        request.urlconf = "accounts.urls"


class MixinMiddleware(MiddlewareMixin):
    def process_request(self, request):
        request.mixed = True
        if request.headers.get("X-Do") == "process_request":
            return HttpResponse("from process_request")

    def process_response(self, request, response):
        response["X-Mixed"] = str(getattr(request, "mixed", None))
        return response
