"""As django-valkey 0.4.1 does: a receiver of its own, which is async, in the place of Django's."""

from django.core import signals
from django.core.cache import close_caches

awaited = []


async def close_async_caches(**kwargs):
    awaited.append(kwargs["sender"].__name__)


signals.request_finished.connect(close_async_caches)
signals.request_finished.disconnect(close_caches)


async def how_many_awaited(request):
    from django.http import JsonResponse

    return JsonResponse({"awaited": len(awaited)})
