"""What lives as long as the server's process: `(await state.get()).answers` in any async code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

from django.conf import settings
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

from assistant.running import RunningAnswers

from .serving.lifespan import LifespanState


@dataclass
class State:
    answers: RunningAnswers


@asynccontextmanager
async def lifespan() -> AsyncIterator[State]:
    # All answers share the client, so it keeps no cookies: one user's would be sent for others.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    client = AsyncOpenAI(
        base_url=settings.OPENAI_BASE_URL,
        api_key=settings.OPENAI_API_KEY,
        timeout=Timeout(60, connect=5),  # a local model may have to be loaded first
        max_retries=1,
        http_client=DefaultAsyncHttpxClient(cookies=no_cookies),
    )
    async with client, RunningAnswers(client) as answers:
        yield State(answers)


state = LifespanState(lifespan)
