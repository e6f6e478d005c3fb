"""The running answers of a process, and their client: `(await state.get()).answers`."""

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
    # All users share the client. If it kept cookies, it would send one user's cookies with another
    # user's requests.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    client = AsyncOpenAI(
        base_url=settings.OPENAI_BASE_URL,
        api_key=settings.OPENAI_API_KEY,
        timeout=Timeout(60, connect=5),  # a local model may have to load first
        max_retries=1,
        http_client=DefaultAsyncHttpxClient(cookies=no_cookies),
    )
    async with client, RunningAnswers(client) as answers:
        yield State(answers)


state = LifespanState(lifespan)
