"""The answers that the language model is writing.

An answer belongs to the process that started it. It runs in its own tasks while at least one page
watches it. Other processes receive its text and send commands to it by publish and subscribe.
"""

import asyncio
import json
import logging
import re
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Self

import openai
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error, transaction
from django.utils import timezone

from {{ cookiecutter.project_slug }}.serving.pubsub import publish, publish_sync, subscribe

from .models import MAX_ANSWER_TOKENS, Answer, estimate_tokens

MAX_ANSWER_SECONDS = 300
SAVE_INTERVAL_SECONDS = 0.1
SAVE_BATCH_SIZE = 100  # in one transaction
HEARTBEAT_SECONDS = 5
# How long an answer runs without a page: while a page loads, and after the last page was closed.
LOADING_SECONDS, GRACE_SECONDS = 5, 0.5
MAX_SUBSCRIBE_SECONDS = 1
MAX_PUBLISHED_CHARACTERS = 1000  # a longer text may not fit into one message

State = Answer.State
RESULTS = {  # by the model's finish reason
    "length": (State.COMPLETE, f"The answer reached its limit of {MAX_ANSWER_TOKENS:,} tokens."),
    "content_filter": (State.FAILED, "The language model's content filter stopped the answer."),
    "refusal": (State.FAILED, "The language model declined to answer."),
    None: (State.FAILED, "The language model stopped before the answer was complete."),
}
ERRORS = {
    TimeoutError: "The language model took too long. Try again.",
    openai.APITimeoutError: "The language model took too long. Try again.",
    openai.APIConnectionError: "The connection to the language model failed.",
    openai.RateLimitError: "The language model is overloaded. Try again later.",
    openai.InternalServerError: "The language model's server reported an error. Try again later.",
    openai.APIStatusError: "The language model's server rejected the question.",
    Exception: "The request to the language model failed.",
}
logger = logging.getLogger(__name__)


class RunningAnswer:
    def __init__(self, answer: Answer, messages: list[Any], has_news: asyncio.Event) -> None:
        self.answer, self.messages, self.has_news = answer, messages, has_news
        self.text, self.tokens = "", 0
        self.result: tuple[str, str] = (State.RUNNING, "")
        # The number of saved characters, and the saved result: None if the answer no longer exists.
        self.saved: tuple[int, tuple[str, str] | None] = (0, None)
        self.tasks: list[asyncio.Task[None]] = []
        self.receives_commands = asyncio.Event()
        self.watchers: set[str] = set()
        self.loop = asyncio.get_running_loop()
        self.timer = self.loop.call_later(0, lambda: None)
        self.execute("load")
        has_news.set()

    def execute(self, command: str, watcher: str = "") -> None:
        """Execute a page's command. Another process may serve the page."""
        if command == "stop":
            self.end(State.STOPPED, "You stopped the answer.")
        elif command == "load":
            self.loading_until = self.loop.time() + LOADING_SECONDS
        elif command == "watch":
            self.loading_until = 0
            self.watchers.add(watcher)
        elif command == "leave":
            self.watchers.discard(watcher)
        self.timer.cancel()
        if not self.watchers:
            at = max(self.loading_until, self.loop.time() + GRACE_SECONDS)
            note = "The answer was stopped because its page was closed."
            self.timer = self.loop.call_at(at, self.end, State.STOPPED, note)

    def add(self, text: str) -> None:
        # PostgreSQL cannot store NUL, and no database can store half of a surrogate pair.
        self.text += re.sub("[\0\r\ud800-\udfff]", "", text)
        self.has_news.set()

    def end(self, state: str, note: str) -> None:
        """Set the result, unless it is already set."""
        if self.result[0] == State.RUNNING:
            self.result = state, note
            self.has_news.set()
            for task in self.tasks:
                self.loop.call_soon(task.cancel)  # later, because one of them may be the caller

    def save(self) -> tuple[int, tuple[str, str] | None]:
        """Save and publish the new text. Runs in a thread, while more text may arrive."""
        text, (state, note) = self.text, self.result
        new, changed = text[self.saved[0] :], self.saved[1] != (state, note)
        fields: dict[str, Any] = {"text": text, "state": state, "note": note}
        if state != State.RUNNING:
            tokens = self.tokens or estimate_tokens(text)
            fields["tokens"] = self.answer.tokens - MAX_ANSWER_TOKENS + tokens
        running = Answer.objects.filter(id=self.answer.id, started=self.answer.started)
        if not running.filter(state=State.RUNNING).update(**fields):
            return len(text), None
        change: dict[str, Any] = {"answer": self.answer.id}
        if not changed and len(new) <= MAX_PUBLISHED_CHARACTERS:
            change |= {"at": self.saved[0], "text": new}
        if changed or new:
            publish_sync(f"conversation {self.answer.conversation_id}", json.dumps(change))
        return len(text), (state, note)


class RunningAnswers:
    """The running answers of this process."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self.client = client
        self.by_id: dict[int, RunningAnswer] = {}
        self.has_news = asyncio.Event()
        self.heartbeat_at = 0.0

    async def __aenter__(self) -> Self:
        self.context = copy_context()  # not a request's, which the tasks would keep alive
        self.save_task = asyncio.create_task(self.save_regularly())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.save_task.cancel()
        for running in self.by_id.values():
            running.end(State.FAILED, "The server was stopped during the answer.")
        await self.save()

    async def start(self, answer: Answer, messages: list[Any]) -> None:
        running = self.by_id[answer.id] = RunningAnswer(answer, messages, self.has_news)
        for coroutine in (self.ask_model(running), self.receive_commands(running)):
            task = running.loop.create_task(coroutine, context=self.context.copy())
            running.tasks.append(task)
        # Once the page appears, the user can stop the answer, even through another process.
        with suppress(TimeoutError):
            await asyncio.wait_for(running.receives_commands.wait(), MAX_SUBSCRIBE_SECONDS)

    async def send(self, answer_id: int, command: str, watcher: str = "") -> None:
        """Send a command to the process that runs the answer."""
        if running := self.by_id.get(answer_id):
            running.execute(command, watcher)
        else:
            await publish(f"answer {answer_id}", json.dumps([command, watcher]))

    async def receive_commands(self, running: RunningAnswer) -> None:
        async with subscribe(f"answer {running.answer.id}") as commands:
            async for command in commands:
                running.receives_commands.set()
                if command:
                    running.execute(*json.loads(command))

    async def ask_model(self, running: RunningAnswer) -> None:
        try:
            async with asyncio.timeout(MAX_ANSWER_SECONDS):
                running.end(*await self.stream_answer(running))
        except Exception as error:  # noqa: BLE001 (the user must see any error)
            logger.warning("The request to the language model failed: %r", error)
            note = next(note for kind, note in ERRORS.items() if isinstance(error, kind))
            running.end(State.FAILED, note)

    async def stream_answer(self, running: RunningAnswer) -> tuple[str, str]:
        """Add the model's text to the answer and return the result."""
        chunks = await self.client.chat.completions.create(
            model=settings.OPENAI_MODEL,
            messages=running.messages,
            max_completion_tokens=MAX_ANSWER_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        reason, parts = None, 0
        async with chunks:
            async for chunk in chunks:
                parts += 1
                if chunk.usage:
                    running.tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    running.add(choice.delta.content or choice.delta.refusal or "")
                    if choice.delta.refusal:
                        reason = "refusal"
                    reason = reason or choice.finish_reason
                # Ollama ignores the limit. Each chunk has at least one token.
                if max(parts, estimate_tokens(running.text)) > MAX_ANSWER_TOKENS and not reason:
                    reason = "length"
                    break
        return RESULTS.get(reason, (State.COMPLETE, ""))

    async def save_regularly(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS if self.by_id else None):
                    await self.has_news.wait()
            start = loop.time()
            try:
                await self.save()
            except Error as error:
                logger.warning("Could not save running answers; retrying in a second: %s", error)
                self.has_news.set()
                await asyncio.sleep(1)
            # Wait at least as long as saving took, so that other work gets its share of the time.
            await asyncio.sleep(max(SAVE_INTERVAL_SECONDS, loop.time() - start))

    async def save(self) -> None:
        """Save the changes of all answers, in batches."""
        self.has_news.clear()
        running = list(self.by_id.values())
        changed = [each for each in running if each.saved != (len(each.text), each.result)]
        for start in range(0, max(len(changed), 1), SAVE_BATCH_SIZE):
            loop_time = asyncio.get_running_loop().time()
            if loop_time > self.heartbeat_at:
                self.heartbeat_at = loop_time + HEARTBEAT_SECONDS
                await sync_to_async(send_heartbeat)([each.answer.id for each in running])
            batch = changed[start : start + SAVE_BATCH_SIZE]
            for each, saved in zip(batch, await sync_to_async(save_all)(batch), strict=True):
                each.saved = saved
                if saved[1] is None:
                    each.end(State.STOPPED, "")
                is_current = self.by_id.get(each.answer.id) is each
                if is_current and (saved[1] is None or saved[1][0] != State.RUNNING):
                    del self.by_id[each.answer.id]


@transaction.atomic
def save_all(batch: list[RunningAnswer]) -> list[tuple[int, tuple[str, str] | None]]:
    return [running.save() for running in batch]


def send_heartbeat(ids: list[int]) -> None:
    Answer.objects.filter(id__in=ids, state=State.RUNNING).update(seen=timezone.now())
