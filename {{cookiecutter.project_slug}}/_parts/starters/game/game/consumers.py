import asyncio
import json
from typing import Any

from asgiref.sync import sync_to_async

from {{ cookiecutter.project_slug }}.serving.state_consumer import FrameError, StateConsumer

from .models import Table, get_lobby
from .rules import RuleError

LOBBY_DELAY_SECONDS = 0.5  # limits each page to two queries per second


class LobbyConsumer(StateConsumer):
    topic = "lobby"

    async def read_state(self) -> str:
        await asyncio.sleep(LOBBY_DELAY_SECONDS)
        return json.dumps({"tables": await sync_to_async(get_lobby)()})


class TableConsumer(StateConsumer):
    async def connect(self) -> None:
        self.id = self.scope["url_route"]["kwargs"]["id"]
        self.topic = f"table {self.id}"
        if await Table.objects.filter(pk=self.id).aexists():
            await super().connect()
        else:
            await self.close()

    async def read_state(self) -> str:
        table = await Table.objects.select_related("red", "yellow").aget(pk=self.id)
        return table.as_json()

    async def receive_pong(self) -> None:
        await sync_to_async(Table.mark_seen)(self.id, self.scope["user"].pk)

    async def receive_frame(self, frame: Any) -> None:
        if not self.scope["user"].is_authenticated:
            raise FrameError("Sign in to play.")
        if not isinstance(frame, dict) or type(frame.get("version")) is not int:
            raise FrameError('Send JSON like {"action": "drop", "column": 3, "version": 7}.')
        try:
            await sync_to_async(Table.act)(self.id, self.scope["user"].pk, frame)
        except RuleError as error:
            raise FrameError(str(error)) from None
