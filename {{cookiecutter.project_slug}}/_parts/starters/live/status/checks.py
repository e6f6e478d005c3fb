"""Health checks of services, one after the other or concurrently."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import httpx2
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import IntegrityError, transaction

from .addresses import refuse_local_addresses, validate_url
from .models import Result, Service
from .tasks import tell_staff

CHECK_TIMEOUT_SECONDS = 5
SLOW_MILLISECONDS = 1000
MAX_CONCURRENT_CHECKS = 20


def check_sequentially(services: Iterable[Service]) -> list[Result]:
    """Check the services one after the other; the results are not saved."""
    # Async code, since httpx2's synchronous client has no deadline for a whole request.
    return async_to_sync(check_each)(list(services))


async def check_each(services: list[Service]) -> list[Result]:
    async with new_client() as client:
        return [await check(client, service) for service in services]


async def check_concurrently(services: Iterable[Service], save: bool = False) -> list[Result]:
    """Check the services, at most `MAX_CONCURRENT_CHECKS` of them at the same time.

    With `save`, each result is saved as soon as it is there.
    """
    slots = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)

    async def check_in_slot(service: Service) -> Result:
        async with slots:
            result = await check(client, service)
        if save:
            await sync_to_async(keep)(result)
        return result

    async with new_client() as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(check_in_slot(service)) for service in services]
    return [task.result() for task in tasks]


def new_client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        # `check` has a deadline; the client's timeouts would start again with every byte it reads.
        timeout=None,
        # A service could send the check elsewhere; that it redirects shows that it is up.
        follow_redirects=False,
        headers={"User-Agent": "status board"},
    )


async def check(client: httpx2.AsyncClient, service: Service) -> Result:
    start = time.perf_counter()
    try:
        validate_url(service.url)  # which may have come another way than through the admin
        async with (
            asyncio.timeout(CHECK_TIMEOUT_SECONDS),
            client.stream("GET", service.url, extensions=get_extensions(service)) as response,
        ):
            return build_result(service, start, status=response.status_code)
    except Exception as error:  # noqa: BLE001 (whatever a URL or a service causes, others are checked)
        return build_result(service, start, error=error)


def get_extensions(service: Service) -> dict[str, object]:
    if settings.STATUS_ALLOW_LOCAL_ADDRESSES:
        return {}
    return {"trace": refuse_local_addresses(service.url)}


def keep(result: Result) -> None:
    """Save it, and in the same transaction the tasks to tell the staff what has changed."""
    with suppress(IntegrityError), transaction.atomic():  # the service was deleted meanwhile
        last = result.service.results.last()
        result.save()
        if result.is_down != (last is not None and last.is_down):
            tell_staff(result)


def build_result(
    service: Service, start: float, status: int = 0, error: Exception | None = None
) -> Result:
    milliseconds = round((time.perf_counter() - start) * 1000)
    if error or status >= 400:
        state = Result.State.DOWN
    else:
        state = Result.State.SLOW if milliseconds >= SLOW_MILLISECONDS else Result.State.UP
    detail = type(error).__name__ if error else str(status)
    return Result(service=service, state=state, milliseconds=milliseconds, detail=detail)
