"""The HTTP client that all requests of a process share: `(await state.get()).http_client`."""

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
    # All users share the client. If it kept cookies, it would send one user's cookies with another
    # user's requests.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    async with httpx2.AsyncClient(cookies=no_cookies) as http_client:
        yield State(http_client)


state = LifespanState(lifespan)
