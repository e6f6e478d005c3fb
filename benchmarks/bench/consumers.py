from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.urls import path


class Room(AsyncWebsocketConsumer):
    groups = ("room",)

    async def receive(self, text_data: str) -> None:
        await self.channel_layer.group_send("room", {"type": "say", "text": text_data})

    async def say(self, event: dict[str, str]) -> None:
        await self.send(event["text"])


router = URLRouter([path("ws/room/", Room.as_asgi())])
