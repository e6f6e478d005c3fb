"""The channel layer of Channels on Redis, without the subscriptions that it leaves behind."""

import asyncio
from contextlib import suppress
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer


class RedisChannelLayer(RedisPubSubChannelLayer):
    """Unsubscribes from a channel when the task that created it has ended, as that of a consumer does.

    By itself a channel is unsubscribed when Channels cancels the `receive` of its consumer. If that
    `receive` has just returned a message, it cannot be cancelled (django/channels_redis#276).
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
        """Drop the channel's messages; cancel the `receive` that waits for another."""
        while channel in self.channels:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await self.receive(channel)
