"""The event stream of an open page of a conversation."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator

from asgiref.sync import sync_to_async
from django.template.loader import render_to_string

from {{ cookiecutter.project_slug }}.lifespan import state
from {{ cookiecutter.project_slug }}.serving.pubsub import subscribe
from {{ cookiecutter.project_slug }}.serving.streams import ServerSentEvent

from .markdown import render, split_last_block
from .models import Answer

# After this time, the page opens another stream, which checks the user's session again.
MAX_STREAM_SECONDS = 30
RETRY_MILLISECONDS = 200


async def stream(conversation_id: int, last_id: int) -> AsyncGenerator[ServerSentEvent, None]:
    """Stream the answers from `last_id` on when their state changes, and the running text."""
    answers, watcher = (await state.get()).answers, secrets.token_hex(8)
    loop = asyncio.get_running_loop()
    end, render_at, shown = loop.time() + MAX_STREAM_SECONDS, 0.0, 0
    running: Answer | None = None
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)
    async with subscribe(f"conversation {conversation_id}") as payloads:
        try:
            while True:
                async with asyncio.timeout_at(end):
                    change = json.loads(await payloads.__anext__() or "{}")
                if running and "text" in change and change["at"] <= len(running.text):
                    if change["at"] < len(running.text):  # already loaded from the database
                        continue
                    running.text += change["text"]
                    start = loop.time()
                    if start < render_at:
                        continue
                    finished, last = split_last_block(running.text[shown:])
                    parts = {"id": running.id, "finished": render(finished), "last": render(last)}
                    shown += len(finished)
                    # Rendering takes at most a tenth of the time, however long the text is.
                    render_at = start + 10 * (loop.time() - start)
                    yield ServerSentEvent(parts, event="text")
                    continue
                running = None
                for answer, html in await sync_to_async(render_answers)(conversation_id, last_id):
                    yield ServerSentEvent(html, id=answer.id, event="answer")
                    last_id = answer.id
                    if answer.state == Answer.State.RUNNING:
                        running, shown = answer, len(split_last_block(answer.text)[0])
                        await answers.send(answer.id, "watch", watcher)
        except TimeoutError:
            if running:
                await answers.send(running.id, "load")
        finally:
            if running:
                await answers.send(running.id, "leave", watcher)


def render_answers(conversation_id: int, first_id: int) -> list[tuple[Answer, str]]:
    Answer.mark_lost()
    answers = Answer.objects.filter(conversation=conversation_id, id__gte=first_id)
    return [(each, render_to_string("assistant/answer.html", {"answer": each})) for each in answers]
