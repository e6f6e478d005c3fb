from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth import get_user_model


class Count(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: object) -> None:
        await self.send_json({"users": await get_user_model().objects.acount()})
