"""Graceful shutdown of each server: SIGTERM to the server's own process, as a container's init sends it."""

import asyncio
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import websockets
from websockets.asyncio.client import connect

from tests.template import SERVERS, free_port

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}
HEAD = "Host: example.com\r\nX-Forwarded-Proto: https\r\n"
GRACE = 10


@asynccontextmanager
async def raw(running, words):
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=2**16)
    writer.write(words.encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def nothing(running, stop):
    await stop()


async def idle(running, stop):
    async with raw(running, f"GET /livez HTTP/1.1\r\n{HEAD}\r\n") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        await stop()


async def silent(running, stop):
    async with raw(running, ""):
        await asyncio.sleep(0.5)
        await stop()


async def request(running, stop):
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS, timeout=20) as client:
        answer = asyncio.create_task(client.get("/probe/announced/"))
        await asyncio.to_thread(running.wait_until, lambda: "in the view" in running.output)
        await stop()
        assert (await answer).status_code == 200


async def stuck(running, stop):
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS, timeout=20) as client:
        answer = asyncio.create_task(client.get("/probe/stuck/"))
        await asyncio.sleep(1)
        await stop()
        with suppress(httpx.TransportError):
            return (await answer).status_code


BODY = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 1000 + b"\r\n--b--\r\n"


async def upload(running, stop, finish=True):
    head = (
        f"POST /probe/upload/ HTTP/1.1\r\n{HEAD}Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
    )
    async with raw(running, head) as (reader, writer):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(BODY[:500])
        stopping = asyncio.create_task(stop())
        if finish:
            await asyncio.sleep(2)
            writer.write(BODY[500:])
            answer = await reader.read()
            assert b" 200 " in answer and b'"size": 1000' in answer, answer
        await stopping
        if not finish:
            with suppress(ConnectionError):
                return (await reader.read(100)).partition(b"\r\n")[0]


async def stalled_upload(running, stop):
    return await upload(running, stop, False)


async def download(running, stop, finish=True):
    async with raw(running, f"GET /probe/large_stream/ HTTP/1.1\r\n{HEAD}\r\n") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(stop())
        if finish:
            await asyncio.sleep(2)
            size = 0
            while part := await reader.read(100_000):
                size += len(part)
            assert size > 20_000_000, size
        await stopping


async def stalled_download(running, stop):
    await download(running, stop, False)


async def stream(running, stop):
    async with raw(running, f"GET /probe/stream/ HTTP/1.1\r\n{HEAD}\r\n") as (reader, _):
        await reader.readuntil(b"data: ")
        await stop()


async def websocket(running, stop):
    async with connect(f"ws://127.0.0.1:{running.port}/ws/count/", origin="https://example.com") as member:
        await member.send("{}")
        assert await member.recv()
        await stop()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await member.recv()
        return closed.value.rcvd and closed.value.rcvd.code


async def dead_websocket(running, stop):
    words = (
        f"GET /ws/count/ HTTP/1.1\r\n{HEAD}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Origin: https://example.com\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with raw(running, words) as (reader, _):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        await stop()
        with suppress(ConnectionError):
            return await reader.read()


CASES = [
    nothing,
    idle,
    silent,
    request,
    stuck,
    upload,
    stalled_upload,
    download,
    stalled_download,
    stream,
    websocket,
    dead_websocket,
]


@pytest.mark.parametrize("server", SERVERS)
def test_stop(server, probed):
    made = probed(server)
    if os.environ.get("PY"):
        made.python = type(made.python)(os.environ["PY"])
        made.__dict__.pop("environment", None)
    workers = os.environ.get("W", "1")
    cases = [c for c in CASES if not os.environ.get("C") or c.__name__ in os.environ["C"].split(",")]

    async def measure(case):
        port = free_port()
        with made.started(["sh", "-c", made.procfile()["web"]], port, WEB_CONCURRENCY=workers) as running:
            seconds = None

            async def stop():
                nonlocal seconds
                start = time.monotonic()
                running.process.terminate()
                await asyncio.to_thread(running.process.wait, 45)
                seconds = time.monotonic() - start

            try:
                told = await case(running, stop)
            except BaseException as e:
                told = repr(e)
            return case.__name__, running.process.returncode, seconds, told, running.output

    async def run():
        # each blocks while it starts
        return await asyncio.gather(*(asyncio.to_thread(lambda c=c: asyncio.run(measure(c))) for c in cases))

    for name, status, seconds, told, output in asyncio.run(run()):
        print(f"{server:10} {name:18} {status!s:5} {seconds and round(seconds, 2)!s:6} {told!r}")
        if len(output.strip()):
            print("     " + output.strip().replace("\n", "\n     ")[-2500:])
