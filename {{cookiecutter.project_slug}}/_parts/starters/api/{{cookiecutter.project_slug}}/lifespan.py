"""What lives as long as the server's process: `(await state.get()).http_client` in any async code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from .serving.lifespan import LifespanState


@dataclass
class State:
    http_client: httpx2.AsyncClient


@asynccontextmanager
async def lifespan() -> AsyncIterator[State]:
    # All requests share the client, so it keeps no cookies: one user's would be sent for others.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with httpx2.AsyncClient(cookies=no_cookies) as http_client:
        yield State(http_client)


state = LifespanState(lifespan)
