{% if cookiecutter.database == "postgresql" %}
"""The channel layers for Redis and, without Redis, for PostgreSQL."""
{% else %}
"""A channel layer on Redis that removes the subscriptions that channels-redis leaves behind."""
{% endif %}

import asyncio
{% if cookiecutter.database == "postgresql" %}
import json
import logging
from contextlib import suppress
from contextvars import Context
from typing import Any
from uuid import uuid4

from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from .pubsub import publish, subscribe

logger = logging.getLogger(__name__)
{% else %}
from contextlib import suppress
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
{% endif %}


class RedisChannelLayer(RedisPubSubChannelLayer):
    """Unsubscribes from a channel when the task that created it, such as a consumer's, has ended.

    channels-redis unsubscribes from a channel when Channels cancels the `receive` of its consumer.
    If that `receive` has just returned a message, it cannot be cancelled
    (django/channels_redis#276).
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.cleanup_tasks: set[asyncio.Task[None]] = set()

    async def new_channel(self, prefix: str = "specific.") -> str:
        channel: str = await self._get_layer().new_channel(prefix)
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self._start_cleanup(channel))
        return channel

    def _start_cleanup(self, channel: str) -> None:
        task = asyncio.create_task(self._remove_channel(channel))
        self.cleanup_tasks.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self.cleanup_tasks.discard)

    async def _remove_channel(self, channel: str) -> None:
        """Drop the channel's messages, cancel its waiting `receive`, and leave its groups.

        A consumer that failed, for example because its client disconnected, is still in its groups.
        """
        layer = self._get_layer()
        while channel in layer.channels:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await self.receive(channel)
        prefix = layer._get_group_channel_name("")
        for name, channels in list(layer.groups.items()):
            if channel in channels:
                await layer.group_discard(name.removeprefix(prefix), channel)
{% if cookiecutter.database == "postgresql" %}


class PostgreSQLChannelLayer(InMemoryChannelLayer):
    """Publishes each message to all processes, and delivers received messages to its own channels.

    A message is sent as JSON of at most about 7,900 bytes (pubsub.MAX_MESSAGE_BYTES).
    """

    TOPIC = "channel layer"
    START_TIMEOUT_SECONDS = 10

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.process_id = uuid4().hex
        self.task: asyncio.Task[None] | None = None
        self.has_started = asyncio.Event()

    async def new_channel(self, prefix: str = "specific.") -> str:
        await self._start_receiving()
        return f"{prefix}{self.process_id}!{uuid4().hex}"

    async def receive(self, channel: str) -> Any:
        await self._start_receiving()
        return await super().receive(channel)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if self._is_own(channel):
            await super().send(channel, message)
        else:
            self.require_valid_channel_name(channel)
            await self._publish("channel", channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.require_valid_group_name(group)
        await self._publish("group", group, message)

    def _is_own(self, channel: str) -> bool:
        return f"{self.process_id}!" in channel

    async def _publish(self, kind: str, name: str, message: dict[str, Any]) -> None:
        if not isinstance(message, dict):
            raise TypeError(f"A message must be a dict, not {message!r}.")
        await publish(self.TOPIC, json.dumps([kind, name, message], ensure_ascii=False))

    async def _start_receiving(self) -> None:
        """Wait until the process receives messages. In a test, the event loop may have changed."""
        loop = asyncio.get_running_loop()
        if self.task is None or self.task.done() or self.task.get_loop() is not loop:
            self.has_started = asyncio.Event()
            self.task = loop.create_task(self._receive_all(), context=Context())
        async with asyncio.timeout(self.START_TIMEOUT_SECONDS):
            await self.has_started.wait()

    async def _receive_all(self) -> None:
        async with subscribe(self.TOPIC) as payloads:
            async for payload in payloads:
                if payload is None:
                    self.has_started.set()
                    continue
                try:
                    await self._deliver(*json.loads(payload))
                except Exception:  # the next message may be valid
                    logger.exception("A message could not be delivered: %s", payload)

    async def _deliver(self, kind: str, name: str, message: dict[str, Any]) -> None:
        if kind == "group":
            if name in self.groups:
                await super().group_send(name, message)
        elif "!" not in name or self._is_own(name):
            with suppress(ChannelFull):
                await super().send(name, message)
{% endif %}
