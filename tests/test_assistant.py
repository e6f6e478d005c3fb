"""The assistant on real servers; the language model is a server of the tests' own that speaks its protocol.

No model can be had here: what this proves is how the project deals with such a server, not what a model says.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

from tests.language_model import LanguageModel, run_language_model
from tests.template import Answers, MakeProject, Project, Server, on_each_server

LONG = "word " * 2000


class Page:
    """An open page of a conversation: its event stream, read in a task."""

    def __init__(self, client: httpx.AsyncClient, path: str) -> None:
        self.client, self.path = client, path
        self.answers: dict[str, str] = {}  # HTML by the answer's id
        self.finished, self.texts = "", list[str]()  # of the last one
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        async with self.client.stream("GET", f"{self.path}events/", timeout=60) as response:
            assert response.headers["content-type"] == "text/event-stream"
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "data":
                    value = "\n".join([*([event["data"]] if "data" in event else []), value])
                if line:
                    event[name] = value
                elif event:
                    self.take(event)
                    event = {}

    def take(self, event: dict[str, str]) -> None:
        if event.get("event") == "answer":
            self.answers[event["id"]] = event["data"]
            parts = re.findall(r'<div class="(?:finished|last)">(.*?)</div>', event["data"], re.DOTALL)
            self.finished, last = parts
            self.texts.append((self.finished + last).strip())
        elif event.get("event") == "text":
            parts = json.loads(event["data"])
            self.finished += parts["finished"]
            self.texts.append((self.finished + parts["last"]).strip())

    @property
    def text(self) -> str:
        return self.texts[-1] if self.texts else ""

    @property
    def last(self) -> str:
        return next(reversed(self.answers.values()), "")

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled():
            self.task.result()


async def wait_until(condition: Callable[[], object], seconds: float = 10) -> float:
    """Wait, and return how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def sign_in(server: Server, username: str = "ada") -> httpx.AsyncClient:
    """A client behind the proxy, with the cookies of this user."""
    with server.client(headers={"Origin": "https://example.com"}) as client:
        client.get("/accounts/login/")
        form = {"username": username, "password": "analytical-engine"}
        form["csrfmiddlewaretoken"] = client.cookies["csrftoken"]
        assert client.post("/accounts/login/", data=form).status_code == 302
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        headers = {"Host": "example.com", "X-Forwarded-Proto": "https", "Origin": "https://example.com"}
        headers |= {"Cookie": cookies, "X-CSRFToken": client.cookies["csrftoken"]}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20)


async def ask(client: httpx.AsyncClient, question: str, path: str = "/") -> str:
    """Ask a question; return the path of its conversation."""
    response = await client.post(path, data={"question": question})
    assert response.status_code == 302, response.text
    return response.headers["location"].partition("#")[0]


@asynccontextmanager
async def open_page(client: httpx.AsyncClient, path: str) -> AsyncIterator[Page]:
    assert (await client.get(path)).status_code == 200
    page = Page(client, path)
    try:
        yield page
    finally:
        await page.close()


@contextmanager
def run_project(project: Project, model: LanguageModel, **variables: str) -> Iterator[Server]:
    with project.run_server(OPENAI_BASE_URL=model.url, OPENAI_MODEL="test", **variables) as server:
        yield server


@on_each_server("assistant")
def test_assistant(answers: Answers, make_production_project: MakeProject) -> None:
    project = make_production_project(**answers)
    with run_language_model() as model, run_project(project, model) as server:
        try:
            asyncio.run(use_assistant(server, model))
        finally:
            print(server.output, model)
        assert "Traceback" not in server.output


async def use_assistant(server: Server, model: LanguageModel) -> None:
    async with sign_in(server) as client:
        path = await ask(client, "hello")
        async with open_page(client, path) as page:
            await wait_until(lambda: 'data-state="complete"' in page.last)
            assert "<strong>world</strong>" in page.last
            assert page.texts[-1] == "<p>Hello <strong>world</strong>.</p>"
        assert model.get("hello").body["model"] == "test"

        # Stop, and retry; closing the page then stops it, too.
        model.answer = LONG
        await ask(client, "stop", path)
        async with open_page(client, path) as page:
            await wait_until(lambda: page.text.count("word") > 5)
            assert [each["role"] for each in model.get("stop").body["messages"]] == [
                "system",
                "user",
                "assistant",
                "user",
            ]
            assert (await client.post(path, data={"action": "stop"})).status_code == 302
            assert await wait_until(lambda: model.get("stop").disconnected_at) < 1
            await wait_until(lambda: "You have stopped the answer." in page.last)
            assert page.last.count("word") > 5
            assert (await client.post(path, data={"action": "retry"})).status_code == 302
            await wait_until(lambda: page.text.count("word") > 5)
            assert model.get("stop").disconnected_at is None

            # A reload, as browsers do it, and a second tab.
            async with open_page(client, path) as reloaded, open_page(client, path) as tab:
                await page.close()
                await asyncio.sleep(1.5)
                assert model.get("stop").disconnected_at is None
                words = reloaded.text.count("word")
                await wait_until(lambda: reloaded.text.count("word") > words)
                assert reloaded.text.count("word") - tab.text.count("word") in range(-10, 10)
            assert await wait_until(lambda: model.get("stop").disconnected_at) < 1
        response = await client.get(path)
        assert "its page was closed" in response.text
        assert response.text.count("word") > words
