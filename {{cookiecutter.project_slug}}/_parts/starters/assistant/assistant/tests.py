"""Tests of the app `assistant`: when you replace its pages, replace or delete this file.

The language model is a test server with the same protocol.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import AsyncClient, Client
from django.utils import timezone
from pytest_django import Settings

from . import models
from .markdown import render, split_last_block
from .models import LOST_AFTER, Answer, Conversation

pytestmark = pytest.mark.django_db(transaction=True)


class LanguageModel:
    """Sends these parts. Then finishes, or waits for the client to disconnect."""

    def __init__(self) -> None:
        self.parts = ["Hello ", "**world**."]
        self.finishes = True
        self.questions: list[str] = []
        self.disconnected = asyncio.Event()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        self.questions.append(request["messages"][-1]["content"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for part in self.parts:
            writer.write(self.event(None, content=part))
        if self.finishes:
            writer.write(self.event("stop") + b"data: [DONE]\n\n")
        else:
            await reader.read()
            self.disconnected.set()
        writer.close()

    def event(self, reason: str | None, **delta: str) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode()


@pytest.fixture
async def model(settings: Settings) -> AsyncIterator[LanguageModel]:
    model = LanguageModel()
    server = await asyncio.start_server(model.connect, "127.0.0.1", 0)
    settings.OPENAI_BASE_URL = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield model
    server.close()


@pytest.fixture
async def ada(async_client: AsyncClient) -> AsyncClient:
    await async_client.aforce_login(await get_user_model().objects.acreate_user("ada"))
    return async_client


async def ask(client: AsyncClient, question: str, path: str = "/") -> str:
    response = await client.post(path, {"question": question})
    assert response.status_code == 302
    return response.headers["Location"].partition("#")[0]


async def get_answer(state: str) -> Answer:
    """Return the last answer as soon as it has this state."""
    for _ in range(1000):
        if answer := await Answer.objects.filter(state=state).alast():
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError(f"No answer is {state}.")


async def read_stream(client: AsyncClient, path: str, until: str) -> str:
    """Read a page's event stream until this text arrives, and close it."""
    response: Any = await client.get(f"{path}events/")
    received = ""
    async with asyncio.timeout(10):
        async for part in response:
            received += part.decode()
            if until in received:
                break
    await response.aclose()
    return received


async def test_answer(ada: AsyncClient, model: LanguageModel) -> None:
    path = await ask(ada, "hello")
    received = await read_stream(ada, path, "complete")
    assert "event: answer" in received
    answer = await get_answer("complete")
    assert (answer.question, answer.text, answer.note) == ("hello", "Hello **world**.", "")
    assert "Hello <strong>world</strong>." in (await ada.get(path)).content.decode()
    assert model.questions == ["hello"]


async def test_stop_and_retry(ada: AsyncClient, model: LanguageModel) -> None:
    model.finishes = False
    path = await ask(ada, "hello")
    await read_stream(ada, path, "world")
    await ada.post(path, {"action": "stop"})
    await asyncio.wait_for(model.disconnected.wait(), 5)
    answer = await get_answer("stopped")
    assert (answer.text, answer.note) == ("Hello **world**.", "You stopped the answer.")
    model.finishes = True
    await ada.post(path, {"action": "retry"})
    assert (await get_answer("complete")).id == answer.id
    assert (await ada.post(path, {"action": "retry"})).status_code == 429


async def test_closed_page(ada: AsyncClient, model: LanguageModel) -> None:
    model.finishes = False
    path = await ask(ada, "hello")
    await read_stream(ada, path, "world")
    await asyncio.wait_for(model.disconnected.wait(), 5)
    assert "its page was closed" in (await get_answer("stopped")).note


async def test_no_model(ada: AsyncClient, settings: Settings) -> None:
    settings.OPENAI_BASE_URL = "http://127.0.0.1:1/v1"
    await ask(ada, "hello")
    assert (await get_answer("failed")).note == "The connection to the language model failed."


async def test_limits(
    ada: AsyncClient, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_TOKENS_PER_USER", 2500)
    path = await ask(ada, "hello")
    answer = await get_answer("complete")
    assert 0 < answer.tokens < 100
    await Answer.objects.aupdate(tokens=1000)
    refused = await ada.post(path, {"question": "more"})
    assert (refused.status_code, b">\nmore</textarea>" in refused.content) == (429, True)
    assert await Conversation.objects.acount() == 1


def test_answer_of_a_killed_process(client: Client) -> None:
    user = get_user_model().objects.create_user("ada")
    conversation = Conversation.objects.create(user=user, title="hello")
    then = timezone.now() - 2 * LOST_AFTER
    Answer.objects.create(conversation=conversation, question="hello", started=then, seen=then)
    client.force_login(user)
    assert "was interrupted" in client.get(f"/conversations/{conversation.id}/").text


def test_conversations_of_other_users(client: Client) -> None:
    for name in ("ada", "grace"):
        user = get_user_model().objects.create_user(name)
        conversation = Conversation.objects.create(user=user, title=f"of {name}")
    path = f"/conversations/{conversation.id}/"
    for each in (path, f"{path}events/"):
        assert client.get(each).status_code == 302
    client.force_login(get_user_model().objects.get(username="ada"))
    for each in (path, f"{path}events/"):
        assert client.get(each).status_code == 404
    assert client.post(path, {"question": "hello"}).status_code == 404
    assert "of ada" in client.get("/").text
    assert "of grace" not in client.get("/").text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n"),
        ("![](https://evil.example/)", "<p></p>\n"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>\n"),
    ],
)
def test_html_is_clean(text: str, html: str) -> None:
    assert render(text) == html


@pytest.mark.parametrize(
    ("finished", "last"),
    [
        ("", ""),
        ("", "a\nb"),
        ("a\n\n", "b"),
        ("# a\n", "- b\n\n- c"),
        ("", "```\na\n\nb"),
        ("a\u2028\n\n", "b"),
    ],
)
def test_last_block(finished: str, last: str) -> None:
    assert split_last_block(finished + last) == (finished, last)
