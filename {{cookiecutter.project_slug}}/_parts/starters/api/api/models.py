import hashlib
import secrets
from typing import Any

from django.conf import settings
from django.db import models


class Note(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notes")
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    pinned = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        # Lists and the export read the notes of one owner in one of these orders.
        indexes = [
            models.Index(fields=["owner", "created"], name="note_owner_created"),
            models.Index(fields=["owner", "id"], name="note_owner_id"),
        ]

    def __str__(self) -> str:
        return self.title


class Token(models.Model):
    """Authenticates a program as the user. The database stores only a hash of the secret."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100, help_text="The name of the program, such as “backup”.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created = models.DateTimeField(auto_now_add=True)

    secret = ""  # set only on the instance that creates the token, never stored

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.digest:
            self.secret = secrets.token_urlsafe(32)
            self.digest = hash_secret(self.secret)
        super().save(*args, **kwargs)


def hash_secret(secret: str) -> str:
    # Unlike a password, 256 random bits cannot be guessed, so a fast hash is enough.
    return hashlib.sha256(secret.encode()).hexdigest()
