import time
from datetime import timedelta

from django.core.cache import cache
from django.db.models import Prefetch
from django.http import JsonResponse
from django.shortcuts import render
from django.utils import timezone

from .checks import check_concurrently, check_sequentially
from .models import Result, Service

LATELY = timedelta(hours=1)
IN_CHART = 30
MAX_COMPARED_SERVICES = 10


async def board(request):
    lately = Result.objects.filter(checked__gt=timezone.now() - LATELY)
    latest = Prefetch("results", lately.order_by("-id")[:IN_CHART], to_attr="latest")
    services = [service async for service in Service.objects.prefetch_related(latest)]
    for service in services:
        service.chart = service.latest[::-1]
        service.result = service.latest[0] if service.latest else None
    newest = await Result.objects.order_by("-id").afirst()
    context = {
        "services": services,
        "last": newest.id if newest else 0,
        # A template in an async view cannot ask the database for the user.
        "user": await request.auser(),
    }
    return render(request, "status/board.html", context)


def sync_view(request):
    """Asks the services one after the other: takes as long as all of them together."""
    if not cache.add("comparing-sync", True):
        return busy()
    start = time.perf_counter()
    try:
        return answer(start, check_sequentially(Service.objects.all()[:MAX_COMPARED_SERVICES]))
    finally:
        cache.delete("comparing-sync")


async def async_view(request):
    """Asks them all at once: takes as long as the slowest."""
    if not await cache.aadd("comparing-async", True):
        return busy()
    start = time.perf_counter()
    try:
        services = [service async for service in Service.objects.all()[:MAX_COMPARED_SERVICES]]
        return answer(start, await check_concurrently(services))
    finally:
        await cache.adelete("comparing-async")


def answer(start, results):
    milliseconds = round((time.perf_counter() - start) * 1000)
    states = {result.service.name: result.state for result in results}
    return JsonResponse({"milliseconds": milliseconds, "services": states})


def busy():
    """One at a time in each process: it sends requests to others, and anybody may ask for it."""
    return JsonResponse(
        {"error": "Somebody else has just asked for this. Try again in a moment."},
        status=429,
        headers={"Retry-After": "5"},
    )
