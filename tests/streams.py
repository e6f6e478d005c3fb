"""Many open event streams, read over plain sockets: the clients of a library are slower than the server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


class Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def next_event(self) -> Any:
        await self.reader.readuntil(b"data: ")
        return json.loads(await self.reader.readline())


async def open_stream(port: int, path: str) -> Stream:
    """Open a stream, and wait for its first part."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in HEADERS.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0], head
    await reader.readuntil(b"\n\n")
    return Stream(reader, writer)


@asynccontextmanager
async def open_streams(ports: list[int], count: int, path: str = "/events/") -> AsyncIterator[list[Stream]]:
    """Open this many streams, spread over the ports, 50 at a time."""
    streams: list[Stream] = []
    at_once = asyncio.Semaphore(50)

    async def open_one(number: int) -> None:
        async with at_once:
            streams.append(await open_stream(ports[number % len(ports)], path))

    try:
        await asyncio.wait_for(asyncio.gather(*[open_one(number) for number in range(count)]), 60)
        yield streams
    finally:
        for stream in streams:
            stream.writer.close()
        await asyncio.gather(*[stream.writer.wait_closed() for stream in streams], return_exceptions=True)
