"""A look at services: one after the other, or all at once."""

import asyncio
import time
from contextlib import suppress

import httpx2
from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction

from .models import Result
from .tasks import tell_staff

SLOW = 1000  # ms from which on a service counts as slow
LIMIT = 5  # s that a service has to answer
AT_ONCE = 20

HEADERS = {"User-Agent": "status board"}


def one_after_the_other(services):
    """The results of all services, not saved."""
    with httpx2.Client(timeout=LIMIT, headers=HEADERS) as client:
        return [check(client, service) for service in services]


def check(client, service):
    start = time.perf_counter()
    try:
        with client.stream("GET", service.url) as response:
            return judge(service, start, response.status_code)
    except Exception as error:  # noqa: BLE001 (whatever a URL or a service makes of it, others are checked)
        return judge(service, start, error=error)


async def all_at_once(services, save=False):
    """The results of all services; no more than `AT_ONCE` requests are under way together.

    With `save` each is saved as soon as it is there.
    """
    slots = asyncio.Semaphore(AT_ONCE)
    async with (
        httpx2.AsyncClient(timeout=LIMIT, headers=HEADERS) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(acheck(client, service, slots, save)) for service in services]
    return [task.result() for task in tasks]


async def acheck(client, service, slots, save):
    async with slots:
        start = time.perf_counter()
        try:
            # The client's own limit is for each read: a service could send a byte now and then.
            async with asyncio.timeout(LIMIT), client.stream("GET", service.url) as response:
                result = judge(service, start, response.status_code)
        except Exception as error:  # noqa: BLE001 (as above)
            result = judge(service, start, error=error)
    if save:
        await sync_to_async(keep)(result)
    return result


def keep(result):
    """Save it, and in the same transaction the tasks to tell the staff what has changed."""
    with suppress(IntegrityError), transaction.atomic():  # the service was deleted meanwhile
        last = result.service.results.last()
        result.save()
        if result.is_down != (last is not None and last.is_down):
            tell_staff(result)


def judge(service, start, status=None, error=None):
    milliseconds = round((time.perf_counter() - start) * 1000)
    if error or status >= 400:
        state = Result.State.DOWN
    else:
        state = Result.State.SLOW if milliseconds >= SLOW else Result.State.UP
    detail = type(error).__name__ if error else str(status)
    return Result(service=service, state=state, milliseconds=milliseconds, detail=detail)
