from typing import Any

from django.db import models, transaction

ROOM_NAME = r"[A-Za-z0-9_-]{1,50}"


class Room(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name

    @classmethod
    @transaction.atomic
    def store_message(
        cls, name: str, user: str, text: str, key: str | None = None
    ) -> tuple["Message", int]:
        """Store a message, unless a message with this key is already stored.

        Returns the message and the id of the previous one in the room, or 0.
        """
        # The lock makes a room's messages visible in the order of their ids, so a client that has a
        # message has all older ones.
        room, _ = cls.objects.select_for_update().get_or_create(name=name)
        message = room.messages.filter(key=key).first() if key else None
        message = message or room.messages.create(user=user, text=text, key=key)
        previous = room.messages.filter(id__lt=message.id).order_by("-id").first()
        return message, previous.id if previous else 0


class Message(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    user = models.CharField(max_length=150)  # a name, because guests have no user
    text = models.TextField()
    # Chosen by the client, so that a message that it sends again after an error is stored once.
    # Null if there is no key, because unique constraints ignore nulls.
    key = models.CharField(max_length=36, null=True, editable=False)
    sent = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["room", "id"], name="message_room_id")]
        constraints = [models.UniqueConstraint(fields=["room", "key"], name="message_key_once")]

    def __str__(self) -> str:
        return f"{self.user}: {self.text[:50]}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that clients receive, ready for JSON."""
        return {
            "id": self.id,
            "user": self.user,
            "message": self.text,
            "sent": self.sent.isoformat(),
        }


class Presence(models.Model):
    """An open WebSocket in a room, with the time of its last heartbeat."""

    room = models.CharField(max_length=50, db_index=True)
    user = models.CharField(max_length=150)
    channel = models.CharField(max_length=200, unique=True)
    seen = models.DateTimeField()

    class Meta:
        verbose_name_plural = "presence"

    def __str__(self) -> str:
        return f"{self.user} in {self.room}"
