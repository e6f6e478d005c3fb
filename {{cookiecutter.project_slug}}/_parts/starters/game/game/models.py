import json
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone

from {{ cookiecutter.project_slug }}.serving.pubsub import publish_sync

from .rules import OPPONENT, Game, RuleError, play

User = settings.AUTH_USER_MODEL
AWAY_AFTER = timedelta(seconds=60)
MAX_TABLES_SHOWN = 50


class Table(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    created = models.DateTimeField(auto_now_add=True)
    version = models.PositiveIntegerField(default=1)
    red = models.ForeignKey(User, models.CASCADE, related_name="+")
    yellow = models.ForeignKey(User, models.CASCADE, related_name="+", null=True)
    first = models.CharField(max_length=6, default="red")
    moves = models.CharField(max_length=42)
    result = models.CharField(max_length=11)
    winner = models.CharField(max_length=6)
    rematch = models.CharField(max_length=6)
    # The time when a page of the player last sent a frame.
    red_seen = models.DateTimeField(default=timezone.now)
    yellow_seen = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index("created", condition=models.Q(result=""), name="in_progress")]

    def __str__(self) -> str:
        return f"{self.red} – {self.yellow or '…'}"

    @classmethod
    @transaction.atomic
    def act(cls, id: UUID, player: int, action: dict[str, Any]) -> None:
        """Apply a player's action and publish the new state, or raise RuleError.

        The lock serializes the actions of all processes. Each action has the version that its
        player saw, so that repeated and outdated actions are rejected.
        """
        tables = cls.objects.select_related("red", "yellow").select_for_update(of=("self",))
        table = tables.get(pk=id)
        if action["version"] != table.version:
            raise RuleError("The table has changed. Check the board, then try again.")
        old = table.game
        opponent_away = OPPONENT.get(old.color_of(player)) in table.away
        game = play(old, player, action.get("action"), action.get("column"), opponent_away)
        for name, value in asdict(game).items():
            setattr(table, name, value)
        setattr(table, f"{game.color_of(player)}_seen", timezone.now())
        table.version += 1
        table.save()
        publish_sync(f"table {id}", table.as_json())
        if (game.yellow_id, game.result) != (old.yellow_id, old.result):
            publish_sync("lobby", "")

    @classmethod
    def mark_seen(cls, id: UUID, player: int | None) -> None:
        """Store the current time, if the user is one of the players."""
        for color in OPPONENT if player else ():
            table = cls.objects.filter(pk=id, **{f"{color}_id": player})
            table.update(**{f"{color}_seen": timezone.now()})

    @property
    def game(self) -> Game:
        return Game(**{field.name: getattr(self, field.name) for field in fields(Game)})

    @property
    def away(self) -> list[str]:
        """The colors whose players have not been seen for a minute."""
        since = timezone.now() - AWAY_AFTER
        return [color for color in OPPONENT if getattr(self, f"{color}_seen") <= since]

    def as_json(self) -> str:
        game = self.game
        state = {
            "version": self.version,
            "red": self.red.get_username(),
            "yellow": self.yellow.get_username() if self.yellow else "",
            "turn": game.turn,
            "discs": list(game.discs.items()),
            "line": game.line,
            "result": game.result,
            "winner": game.winner,
            "rematch": game.rematch,
            "away": self.away,
        }
        return json.dumps(state)


def get_lobby() -> list[dict[str, str]]:
    """Return the newest unfinished tables with at least one player present."""
    since = timezone.now() - AWAY_AFTER
    present = models.Q(red_seen__gt=since) | models.Q(yellow_seen__gt=since)
    tables = Table.objects.filter(present, result="").select_related("red", "yellow")
    return [
        {"id": str(table.pk), "red": str(table.red), "yellow": str(table.yellow or "")}
        for table in tables.order_by("-created")[:MAX_TABLES_SHOWN]
    ]
