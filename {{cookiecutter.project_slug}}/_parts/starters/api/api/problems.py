"""Errors of the API and of Django as `application/problem+json` (RFC 9457)."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_cache_control
from django.utils.decorators import sync_and_async_middleware
from ninja import NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError

CONTENT_TYPE = "application/problem+json"


class InvalidField(Schema):
    loc: list[str | int]
    msg: str


class Problem(Schema):
    title: str
    status: int
    detail: str = ""
    errors: list[InvalidField] = []


def encode_problem(status: int, detail: str = "", errors: Any = ()) -> str:
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors)
    )
    return problem.model_dump_json(exclude_defaults=True)


def make_response(status: int, detail: str, errors: Any = ()) -> HttpResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    content = encode_problem(status, detail, errors)
    return HttpResponse(content, status=status, content_type=CONTENT_TYPE, headers=headers)


def add_exception_handlers(api: NinjaAPI) -> None:
    @api.exception_handler(HttpError)
    def respond_to_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        return make_response(error.status_code, error.message)

    @api.exception_handler(ValidationError)
    def respond_to_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return make_response(422, "The request does not match the schema.", error.errors)

    @api.exception_handler(Exception)
    @api.exception_handler(Http404)
    def let_django_respond(request: HttpRequest, error: Exception) -> HttpResponse:
        raise error


@sync_and_async_middleware
def problem_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Convert Django's error pages under /api/ to problems; keep responses out of shared caches."""
    if iscoroutinefunction(get_response):

        async def async_middleware(request: HttpRequest) -> HttpResponseBase:
            return convert(request, await get_response(request))

        return async_middleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return convert(request, get_response(request))

    return middleware


def convert(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if not request.path_info.startswith("/api/"):
        return response
    # A token is not a cookie, so `Vary: Cookie` does not keep a shared cache from serving one
    # user's response to another.
    patch_cache_control(response, private=True)
    status = response.status_code
    is_problem = response.get("Content-Type") == CONTENT_TYPE
    has_traceback = settings.DEBUG and status == 500
    if isinstance(response, HttpResponse) and status >= 400 and not (is_problem or has_traceback):
        response.content = encode_problem(status)
        response["Content-Type"] = CONTENT_TYPE
    return response
