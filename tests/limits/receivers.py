"""An async receiver in place of Django's, as in django-valkey 0.4.1."""

from typing import Any

from django.core import signals
from django.core.cache import close_caches
from django.http import HttpRequest, JsonResponse

awaited: list[str] = []


async def close_async_caches(**kwargs: Any) -> None:
    awaited.append(kwargs["sender"].__name__)


signals.request_finished.connect(close_async_caches)
signals.request_finished.disconnect(close_caches)


async def count_awaited(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"awaited": len(awaited)})
