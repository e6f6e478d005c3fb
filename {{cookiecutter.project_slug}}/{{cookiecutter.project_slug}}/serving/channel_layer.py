"""The channel layer of Channels on Redis, without the subscriptions that it leaves behind."""

import asyncio
from contextlib import suppress
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer


class RedisChannelLayer(RedisPubSubChannelLayer):
    """Unsubscribes from a channel when the task that created it, such as a consumer's, has ended.

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
        """Drop the channel's messages, cancel the `receive` that waits for another, leave its groups.

        A consumer that failed, for example since its client had left, is still in them.
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
