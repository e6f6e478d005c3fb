"""Health checks of services, sequential or concurrent."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import httpx2
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import IntegrityError, transaction

from {{ cookiecutter.project_slug }}.lifespan import state

from .addresses import reject_local_addresses, validate_url
from .events import publish_result
from .models import Result, Service
from .tasks import notify_staff

CHECK_TIMEOUT_SECONDS = 5
SLOW_MILLISECONDS = 1000
MAX_CONCURRENT_CHECKS = 20


def check_sequentially(services: Iterable[Service]) -> list[Result]:
    """Check one service at a time; the results are not saved."""
    # Async, because httpx2's synchronous client has no timeout for a whole request.
    return async_to_sync(check_each)(list(services))


async def check_each(services: list[Service]) -> list[Result]:
    client = (await state.get()).http_client
    return [await check(client, service) for service in services]


async def check_concurrently(services: Iterable[Service], save: bool = False) -> list[Result]:
    """Check up to `MAX_CONCURRENT_CHECKS` services at a time.

    With `save`, each result is saved as soon as its check is complete.
    """
    client = (await state.get()).http_client
    semaphore = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)

    async def check_and_save(service: Service) -> Result:
        async with semaphore:
            result = await check(client, service)
        if save:
            await sync_to_async(save_result)(result)
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check_and_save(service)) for service in services]
    return [task.result() for task in tasks]


async def check(client: httpx2.AsyncClient, service: Service) -> Result:
    start = time.perf_counter()
    try:
        validate_url(service.url)  # services can be added without the admin's validation
        request = client.stream(
            "GET",
            service.url,
            headers={"User-Agent": "status board"},
            # A service that redirects is up. Following redirects could lead to any address.
            follow_redirects=False,
            # The client's own timeouts restart with each byte that it reads.
            timeout=None,
            extensions=get_extensions(service),
        )
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS), request as response:
            return build_result(service, start, status=response.status_code)
    except Exception as error:  # noqa: BLE001 (an error must not cancel the other checks)
        return build_result(service, start, error=error)


def get_extensions(service: Service) -> dict[str, object]:
    if settings.STATUS_ALLOW_LOCAL_ADDRESSES:
        return {}
    return {"trace": reject_local_addresses(service.url)}


def save_result(result: Result) -> None:
    """Save and publish the result and, in the same transaction, enqueue emails about a change."""
    with suppress(IntegrityError), transaction.atomic():  # the service was deleted meanwhile
        previous = result.service.results.last()
        result.save()
        publish_result(result)
        if result.is_down != (previous is not None and previous.is_down):
            notify_staff(result)


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
