import time
from collections.abc import Iterable
from datetime import timedelta

from django.core.cache import cache
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone

from .checks import check_concurrently, check_sequentially
from .models import Result, Service

CHART_PERIOD = timedelta(hours=1)
MAX_CHART_RESULTS = 30
MAX_COMPARED_SERVICES = 10


async def board(request: HttpRequest) -> HttpResponse:
    recent = Result.objects.filter(checked__gt=timezone.now() - CHART_PERIOD).order_by("-id")
    latest = Prefetch("results", recent[:MAX_CHART_RESULTS], to_attr="latest")
    services = Service.objects.prefetch_related(latest)
    newest = await Result.objects.order_by("-id").afirst()
    context = {
        "services": [(service, service.latest[::-1]) async for service in services],
        "last": newest.id if newest else 0,
        # A template rendered in an async view cannot load the user from the database.
        "user": await request.auser(),
    }
    return render(request, "status/board.html", context)


def sync_view(request: HttpRequest) -> HttpResponse:
    """Check sequentially, which takes as long as all checks together."""
    if not cache.add("comparing-sync", True):
        return too_many_requests()
    start = time.perf_counter()
    try:
        return report(start, check_sequentially(Service.objects.all()[:MAX_COMPARED_SERVICES]))
    finally:
        cache.delete("comparing-sync")


async def async_view(request: HttpRequest) -> HttpResponse:
    """Check concurrently, which takes as long as the slowest check."""
    if not await cache.aadd("comparing-async", True):
        return too_many_requests()
    start = time.perf_counter()
    try:
        services = [service async for service in Service.objects.all()[:MAX_COMPARED_SERVICES]]
        return report(start, await check_concurrently(services))
    finally:
        await cache.adelete("comparing-async")


def report(start: float, results: Iterable[Result]) -> JsonResponse:
    milliseconds = round((time.perf_counter() - start) * 1000)
    states = {result.service.name: result.state for result in results}
    return JsonResponse({"milliseconds": milliseconds, "services": states})


def too_many_requests() -> JsonResponse:
    """Reject a comparison while another one runs in this process: anyone can start them."""
    return JsonResponse(
        {"error": "A comparison is already running. Try again in a moment."},
        status=429,
        headers={"Retry-After": "5"},
    )
