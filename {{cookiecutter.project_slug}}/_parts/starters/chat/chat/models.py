from django.db import models, transaction

ROOM_NAME = r"[A-Za-z0-9_-]{1,50}"


class Room(models.Model):
    name = models.CharField(max_length=50, unique=True)

    def __str__(self):
        return self.name

    @classmethod
    @transaction.atomic
    def store(cls, name, user, text, key=None):
        """Store a message, unless the one with this key is stored already.

        Returns it and the id of the one before it in the room, or 0.
        """
        # The lock keeps the ids of a room in the order in which its messages become visible: nobody who
        # has seen one has to look for an older one again.
        room, _ = cls.objects.select_for_update().get_or_create(name=name)
        message = room.messages.filter(key=key).first() if key else None
        message = message or room.messages.create(user=user, text=text, key=key)
        before = room.messages.filter(id__lt=message.id).order_by("-id").first()
        return message, before.id if before else 0


class Message(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    user = models.CharField(max_length=150)  # a name, since guests speak too
    text = models.TextField()
    # Made by the client, so that one it sends twice, for want of an answer, is stored once.
    key = models.CharField(max_length=36, null=True, editable=False)  # noqa: DJ001 (null is not unique)
    sent = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["room", "id"], name="message_room_id")]
        constraints = [models.UniqueConstraint(fields=["room", "key"], name="message_key_once")]

    def __str__(self):
        return f"{self.user}: {self.text[:50]}"

    def as_dict(self):
        """What a client receives, ready for JSON."""
        return {
            "id": self.id,
            "user": self.user,
            "message": self.text,
            "sent": self.sent.isoformat(),
        }


class Presence(models.Model):
    """A WebSocket that is open in a room, as of when it was last heard of."""

    room = models.CharField(max_length=50, db_index=True)
    user = models.CharField(max_length=150)
    channel = models.CharField(max_length=200, unique=True)
    seen = models.DateTimeField()

    class Meta:
        verbose_name_plural = "presence"

    def __str__(self):
        return f"{self.user} in {self.room}"
