"""Views that use most features of requests and responses. Each of `BOTH` is tested as a sync and as an async view."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django import forms
from django.contrib import messages
from django.contrib.auth import HASH_SESSION_KEY, get_user_model
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.signing import BadSignature
from django.db import transaction
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotModified,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token, rotate_token
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.utils import translation
from django.views import View
from django.views.decorators.cache import cache_control, cache_page, never_cache
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.csrf import csrf_exempt, csrf_protect, ensure_csrf_cookie
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import condition, require_GET, require_http_methods
from django.views.decorators.vary import vary_on_cookie, vary_on_headers

User = get_user_model()
ViewFunction = Callable[..., Any]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def echo(request: HttpRequest) -> JsonResponse:
    """Return the request as the view sees it."""
    return JsonResponse(
        {
            "method": request.method,
            "path": [request.path, request.path_info, request.get_full_path(), request.build_absolute_uri()],
            "GET": [[key, request.GET.getlist(key)] for key in request.GET],
            "cookies": sorted(key for key in request.COOKIES),
            "headers": sorted(
                [key, value] for key, value in request.headers.items() if key not in ("Cookie", "X-Csrftoken")
            ),
            "secure": request.is_secure(),
            "address": request.META.get("REMOTE_ADDR"),
            "encoding": request.encoding,
            "type": [request.content_type, request.content_params],
            "language": translation.get_language(),
            "user": request.user.get_username(),
            "matched": [match.view_name, sorted(match.kwargs)] if (match := request.resolver_match) else None,
        }
    )


def body(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"length": len(request.body), "digest": digest(request.body), "again": len(request.read())})


def read(request: HttpRequest) -> JsonResponse:
    parts = [digest(part) for part in iter(lambda: request.read(1000), b"")]
    return JsonResponse({"parts": parts, "line": request.readline().decode("latin-1")})


def post(request: HttpRequest) -> JsonResponse:
    files = {
        name: [file.name, file.size, file.content_type, digest(file.read())]
        for name, file in request.FILES.items()
        if isinstance(file, UploadedFile)
    }
    fields = {name: [digest(value.encode()) for value in request.POST.getlist(name)] for name in request.POST}
    return JsonResponse({"fields": fields, "files": files})


def body_after_post(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"fields": len(request.POST), "length": len(request.body)})


def session(request: HttpRequest) -> JsonResponse:
    number = request.session["number"] = request.session.get("number", 0) + 1
    if number % 7 == 0:
        request.session.cycle_key()
    return JsonResponse({"number": number, "empty": request.session.is_empty()})


def read_session(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"number": request.session.get("number"), "user": str(request.user)})


def flush_session(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse("flushed")


def session_and_error(request: HttpRequest) -> None:
    request.session["number"] = -1
    raise RuntimeError("after the session was changed")


def add_message(request: HttpRequest) -> HttpResponseRedirect:
    messages.info(request, f"hello {request.GET.get('q', '')}", extra_tags="x" * 100)
    return redirect("/differential/page/")


def page(request: HttpRequest) -> HttpResponse:
    return render(request, "differential/page.html", {"number": User.objects.count()})


def template_response(request: HttpRequest) -> TemplateResponse:
    response = TemplateResponse(request, "differential/page.html", {"number": 1})
    response.add_post_render_callback(lambda rendered: rendered.headers.setdefault("X-Rendered", "yes"))
    return response


def template_missing(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(request, "differential/missing.html")


def token(request: HttpRequest) -> HttpResponse:
    return HttpResponse(get_token(request))


def new_token(request: HttpRequest) -> HttpResponse:
    rotate_token(request)
    return HttpResponse("rotated")


def create_user(request: HttpRequest) -> HttpResponse:
    user, created = User.objects.get_or_create(username=f"user {request.GET.get('q', '')}"[:30])
    return HttpResponse(f"{user.username} {created}")


def rolled_back(request: HttpRequest) -> None:
    with transaction.atomic():
        User.objects.create(username="rolled back")
        raise PermissionDenied("rolled back")


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("cookies")
    response.set_cookie("plain", "a b;c", max_age=1000, samesite="Lax", httponly=True)
    response.set_signed_cookie("signed", "value", salt="salt", path="/differential/")
    response.delete_cookie("gone", path="/x")
    return response


def signed_cookie(request: HttpRequest) -> HttpResponse:
    try:
        return HttpResponse(request.get_signed_cookie("signed", salt="salt", default="none"))
    except BadSignature:
        return HttpResponse("bad")


def raising(error: Exception) -> ViewFunction:
    def view(request: HttpRequest) -> HttpResponse:
        raise error

    return view


def nothing(request: HttpRequest) -> None:
    return None


def no_response(request: HttpRequest) -> str:
    return "a string"


def status(request: HttpRequest) -> HttpResponse:
    code = int(request.GET.get("q", "200")[:3]) if request.GET.get("q", "").isdigit() else 204
    return HttpResponse(b"" if code in (204, 304) else b"status", status=code if 200 <= code < 600 else 418)


def headers(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("é", content_type="text/plain; charset=latin-1")
    response["X-Ünicode"] = "no"
    return response


def more_headers(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(["a", b"b", "ü"], headers={"X-One": "1", "Server-Timing": "db;dur=1"}, reason="Fine")
    response["X-Two"] = "zwei ü"
    response.headers["Content-Length"] = str(len(response.content))
    return response


def redirects(request: HttpRequest) -> HttpResponseRedirect:
    return HttpResponseRedirect(request.GET.get("q") or "elsewhere/?x=ü", status=307)


def not_modified(request: HttpRequest) -> HttpResponseNotModified:
    return HttpResponseNotModified()


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(part for part in ["eins ", b"zwei ", "drü"])


def empty_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([]), headers={"X-Empty": "yes"})


def counting_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for number in range(3):
            yield f"{number} {User.objects.count()}\n"

    return StreamingHttpResponse(parts(), content_type="text/plain", status=201)


def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "one"
        raise RuntimeError("stream broke")

    return StreamingHttpResponse(parts())


def async_parts(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            await asyncio.sleep(0)
            yield f"{number} {await User.objects.acount()}\n"

    return StreamingHttpResponse(parts())


def broken_async_parts(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "one"
        raise PermissionDenied("stream broke")

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(BytesIO(b"0123456789" * 20_000), as_attachment=True, filename="zahlen ü.txt")


class Closing(HttpResponse):
    def close(self) -> None:
        User.objects.get_or_create(username="closed")
        super().close()


def closing(request: HttpRequest) -> Closing:
    return Closing("closing")


class BareResponse(HttpResponseBase):
    streaming = False
    content = b"bare"

    def __iter__(self) -> Iterator[bytes]:
        return iter([self.content])


def bare(request: HttpRequest) -> BareResponse:
    return BareResponse()


class Form(forms.Form):
    name = forms.CharField(max_length=20)
    file = forms.FileField(required=False)


def form(request: HttpRequest) -> JsonResponse:
    bound = Form(request.POST, request.FILES)
    return JsonResponse(bound.errors if not bound.is_valid() else {"name": bound.cleaned_data["name"]})


def etag(request: HttpRequest, *args: object, **kwargs: object) -> str:
    return '"abc"'


def last_modified(request: HttpRequest, *args: object, **kwargs: object) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


BOTH: dict[str, ViewFunction] = {
    function.__name__: function
    for function in (
        echo, body, read, post, body_after_post, session, read_session, flush_session, session_and_error, add_message,
        page, template_response, template_missing, token, new_token, create_user, rolled_back, cookies, signed_cookie,
        nothing, no_response, status, headers, more_headers, redirects, not_modified, stream, empty_stream,
        counting_stream, broken_stream, async_parts, broken_async_parts, file, closing, bare, form,
    )
}  # fmt: skip
BOTH |= {
    "error": raising(RuntimeError("broken")),
    "missing": raising(Http404("not here")),
    "denied": raising(PermissionDenied("not for you")),
    "bad": raising(BadRequest("not so")),
    "suspicious": raising(SuspiciousOperation("not you")),
    "stopped": raising(KeyError("key")),
}
DECORATORS: dict[str, Callable[[ViewFunction], ViewFunction]] = {
    "exempt": csrf_exempt,
    "protected": csrf_protect,
    "with_cookie": ensure_csrf_cookie,
    "get_only": require_GET,
    "some_methods": require_http_methods(["GET", "PUT"]),
    "conditional": condition(etag_func=etag, last_modified_func=last_modified),
    "never": never_cache,
    "control": cache_control(max_age=60, public=True),
    "vary": lambda view: vary_on_cookie(vary_on_headers("X-One")(view)),
    "frames": xframe_options_exempt,
    "gzip": gzip_page,
    "for_users": login_required,
}


def as_async(view: ViewFunction) -> ViewFunction:
    async def async_view(request: HttpRequest, *args: object, **kwargs: object) -> Any:
        await asyncio.sleep(0)
        return await sync_to_async(view)(request, *args, **kwargs)

    return async_view


def views() -> dict[str, ViewFunction]:
    """Return views by path: each as sync and async, some of them decorated."""
    found: dict[str, ViewFunction] = {}
    for name, view in BOTH.items():
        found[name], found[f"async_{name}"] = view, as_async(view)
    for name, decorator in DECORATORS.items():
        for wrapped in ("echo", "post", "stream", "error"):
            found[f"{name}_{wrapped}"] = decorator(BOTH[wrapped])
            found[f"async_{name}_{wrapped}"] = decorator(as_async(BOTH[wrapped]))
    found["cached_page"] = cache_page(60)(BOTH["page"])
    found["show_user"], found["change_password_elsewhere"] = show_user, change_password_elsewhere
    found["class"], found["async_class"] = SyncView.as_view(), AsyncView.as_view()
    return found


async def show_user(request: HttpRequest) -> JsonResponse:
    user = await request.auser()
    is_same = user is await request.auser()
    return JsonResponse({"user": str(user), "same": is_same, "number": await request.session.aget("number")})


async def change_password_elsewhere(request: HttpRequest) -> HttpResponse:
    """Leave the session as after a change of the password in another one: its next request signs the user out."""
    if await request.session.aget(HASH_SESSION_KEY):
        await request.session.aset(HASH_SESSION_KEY, "of the old password")
    return HttpResponse("changed")


class SyncView(View):
    def get(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return HttpResponse("get")

    def put(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return HttpResponse(f"put {len(request.body)}")


class AsyncView(View):
    async def get(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return HttpResponse(f"get {await User.objects.acount()}")

    async def delete(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        return HttpResponse(status=204)


VIEWS = views()
assert iscoroutinefunction(VIEWS["async_conditional_echo"])
