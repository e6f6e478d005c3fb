"""One response that combines several services, requested concurrently."""

import asyncio
import time
from typing import Any

import httpx2
from django.conf import settings
from ninja import Router, Schema
from pydantic_core import from_json

from {{ cookiecutter.project_slug }}.lifespan import state

from .auth import AuthenticatedRequest

TIMEOUT_SECONDS = 2
MAX_BODY_BYTES = 1024 * 1024

router = Router(tags=["upstreams"])


class Answer(Schema):
    url: str
    milliseconds: int
    data: Any = None
    error: str = ""


@router.get("", response=list[Answer])
async def ask_upstreams(request: AuthenticatedRequest) -> list[Answer]:
    """Return the response of each service in API_UPSTREAMS within two seconds, or its error."""
    client = (await state.get()).http_client
    return await asyncio.gather(*(ask(client, url) for url in settings.API_UPSTREAMS))


async def ask(client: httpx2.AsyncClient, url: str) -> Answer:
    start = time.perf_counter()
    data, error = None, ""
    try:
        # The client's own timeouts restart with each byte that it reads.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            data = await get_json(client, url)
    # An error must not cancel the other requests, and clients must not see its message.
    except Exception as exception:  # noqa: BLE001
        error = type(exception).__name__
    milliseconds = round((time.perf_counter() - start) * 1000)
    return Answer(url=url, milliseconds=milliseconds, data=data, error=error)


async def get_json(client: httpx2.AsyncClient, url: str) -> Any:
    async with client.stream("GET", url, timeout=None) as response:
        response.raise_for_status()
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ValueError(f"The response of {url} is larger than {MAX_BODY_BYTES} bytes.")
    return from_json(body, allow_inf_nan=False)
