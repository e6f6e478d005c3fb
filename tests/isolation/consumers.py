from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from . import litter
from .views import read_in_background


class Isolation(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: dict[str, Any]) -> None:
        if "owner" in content:
            await self.send_json([each async for each in read_in_background(content["program"], content["owner"])])
        elif "open_transaction" in content:
            await self.send_json(await database_sync_to_async(litter.leave)(content["open_transaction"]))
        else:
            await self.send_json(await database_sync_to_async(litter.inspect)())
