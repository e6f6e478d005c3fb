"""A server that speaks OpenAI's protocol for streamed chat completions, in the place of a language model."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}


@dataclass
class ModelRequest:
    """A request and what came of it; times are those of `time.monotonic`."""

    body: dict[str, Any]
    headers: str
    sent: int = 0
    finished: bool = False
    disconnected_at: float | None = None

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class LanguageModel:
    """Answers each question with the words of `answer`, one in each `interval` seconds.

    The first word of a question may ask for a failure: a status, "hang", "half", "cut", "error", "garbage", "length",
    "filter", "refuse".
    """

    answer: str = "Hello **world**."
    interval: float = 0.05
    requests: list[ModelRequest] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, question: str) -> ModelRequest:
        """The last request with this question."""
        return [request for request in self.requests if request.question == question][-1]

    async def serve(self, listener: socket.socket, stopped: asyncio.Event) -> None:
        async with await asyncio.start_server(self.connect, sock=listener):
            await stopped.wait()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                [length] = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
                body = json.loads(await reader.readexactly(int(length.split(":")[1])))
                assert head.startswith("POST /v1/chat/completions "), head
                request = ModelRequest(body, head)
                self.requests.append(request)
                if not await self.respond(request, reader, writer):
                    break
        writer.close()

    async def respond(self, request: ModelRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Respond until the client disconnects; return whether the connection can be used again."""
        gone = asyncio.create_task(reader.read(1))
        sending = asyncio.create_task(self.send(request, writer))
        await asyncio.wait([gone, sending], return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not sending.done():
            request.disconnected_at = time.monotonic()
        for task in (gone, sending):
            task.cancel()
        results = await asyncio.gather(gone, sending, return_exceptions=True)
        return results[1] is True

    async def send(self, request: ModelRequest, writer: asyncio.StreamWriter) -> bool:
        mode = request.question.split()[0]
        if mode.isdigit():
            error = json.dumps({"error": {"message": "No."}}).encode()
            head = f"HTTP/1.1 {mode} Error\r\nContent-Type: application/json\r\nContent-Length: {len(error)}\r\n\r\n"
            writer.write(head.encode() + error)
            return True
        if mode == "hang":
            await asyncio.sleep(600)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in self.answer.split(" "):
            await send_event(writer, chunk(content=f"{word} "))
            request.sent += 1
            await asyncio.sleep(self.interval)
            if mode == "cut":  # in the middle of the response
                return False
            if mode == "error":
                await send_event(writer, {"error": {"message": "Out of memory"}})
                await asyncio.sleep(600)
            if mode == "garbage":
                await send_event(writer, "{")
                await asyncio.sleep(600)
            if mode == "stall":
                await asyncio.sleep(600)
        if mode == "refuse":
            await send_event(writer, chunk(refusal="I cannot help with that."))
        reasons = {"half": None, "length": "length", "filter": "content_filter"}
        reason = reasons.get(mode, "stop")
        if reason:
            await send_event(writer, chunk(reason))
            await send_event(writer, {**chunk(), "choices": [], "usage": USAGE})
            await send_event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        request.finished = True
        return True


def chunk(finish_reason: str | None = None, **delta: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "test", "choices": [choice]}


async def send_event(writer: asyncio.StreamWriter, data: dict[str, Any] | str) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    event = f"data: {text}\n\n".encode()
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
    await writer.drain()


@contextmanager
def run_language_model(**options: Any) -> Iterator[LanguageModel]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    model = LanguageModel(port=listener.getsockname()[1], **options)
    loop, stopped = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[model.serve(listener, stopped)])
    thread.start()
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()
