"""Publish and subscribe: one process sends messages to all processes.

    await publish("results", "7")

    async with subscribe("results") as payloads:
        async for payload in payloads:
            ...  # the first is None: query the database

A message reaches each current subscriber at most once. Save in the database whatever must not be
lost. A payload of `None` tells a subscriber to query the database. A subscriber receives it at the
start, and when messages may have been lost.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context

from asgiref.sync import sync_to_async

from . import transport
from .threads import current_request_thread

# PostgreSQL's limit, which includes the channel name. It applies to other databases, too.
MAX_MESSAGE_BYTES = 7999
# The size of a subscriber's queue.
MAX_WAITING_PAYLOADS = 1000
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 5

logger = logging.getLogger(__name__)

message_numbers = itertools.count()


class PayloadTooLarge(ValueError):
    """The payload and the channel name together have more than MAX_MESSAGE_BYTES."""


async def publish(channel: str, payload: str) -> None:
    """Send the payload to all subscribers of the channel in all processes."""
    await sync_to_async(publish_sync)(channel, payload)


def publish_sync(channel: str, payload: str) -> None:
    """Sync version of `publish`. In a transaction, the payload is sent on commit."""
    if "\n" in channel:
        raise ValueError(f"A channel name must not contain line breaks: {channel!r}.")
    # The number makes messages unique: PostgreSQL sends duplicates in a transaction only once.
    message = f"{channel}\n{next(message_numbers)}\n{payload}"
    if (size := len(message.encode())) > MAX_MESSAGE_BYTES:
        raise PayloadTooLarge(
            f"A message to {channel!r} has {size:,} bytes; the limit is {MAX_MESSAGE_BYTES:,}. Save "
            "large data in the database, and publish its id."
        )
    transport.send(message)


class Subscription:
    """An endless async iterator over the payloads of a channel."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[str | None] = asyncio.Queue(MAX_WAITING_PAYLOADS)

    def put(self, payload: str | None) -> None:
        if self.waiting.full():
            while not self.waiting.empty():
                self.waiting.get_nowait()
            payload = None
        self.waiting.put_nowait(payload)

    def __aiter__(self) -> AsyncIterator[str | None]:
        return self

    async def __anext__(self) -> str | None:
        return await self.waiting.get()


@asynccontextmanager
async def subscribe(channel: str) -> AsyncIterator[Subscription]:
    """Subscribe to the channel until the end of the `async with` block.

    The subscription yields `None` when it starts to receive messages, and again after an outage or
    if the subscriber was too slow. Then it yields every payload that is published from then on.
    """
    loop = asyncio.get_running_loop()
    receiver = receivers.get(loop) or receivers.setdefault(loop, Receiver())
    subscription = receiver.add(channel)
    try:
        yield subscription
    finally:
        receiver.remove(channel, subscription)
        if not receiver.subscriptions:
            receiver.task.cancel()
            receivers.pop(loop)


class Receiver:
    """Receives the messages of all processes for the subscriptions on one event loop."""

    def __init__(self) -> None:
        self.subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self.is_receiving = False
        request_thread = current_request_thread.get()
        self.pool = request_thread.pool if request_thread else None
        # The context is empty, since the task outlives the request of the first subscription.
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self.run(), name="pubsub", context=Context())

    def add(self, channel: str) -> Subscription:
        subscription = Subscription()
        self.subscriptions[channel].add(subscription)
        if self.is_receiving:
            subscription.put(None)
        return subscription

    def remove(self, channel: str, subscription: Subscription) -> None:
        self.subscriptions[channel].discard(subscription)
        if not self.subscriptions[channel]:
            del self.subscriptions[channel]

    async def run(self) -> None:
        if self.pool:  # run synchronous calls in background threads
            (await self.pool.enter_request_context("pubsub")).release()
        delay = MIN_RETRY_SECONDS
        while True:
            try:
                async for message in transport.receive():
                    delay = MIN_RETRY_SECONDS
                    self.is_receiving = True
                    self.deliver(message)
            except Exception as error:  # noqa: BLE001 (the next attempt may succeed)
                logger.warning("Cannot receive messages; retrying in %s s: %s", delay, error)
            self.is_receiving = False
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_RETRY_SECONDS)

    def deliver(self, message: str | None) -> None:
        if message is None:
            for subscriptions in self.subscriptions.values():
                for subscription in subscriptions:
                    subscription.put(None)
            return
        channel, _, payload = message.split("\n", 2)
        for subscription in self.subscriptions.get(channel, ()):
            subscription.put(payload)


# One receiver for each event loop that has subscriptions. A server process has one event loop.
receivers: dict[asyncio.AbstractEventLoop, Receiver] = {}
