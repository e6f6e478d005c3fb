import re
import uuid
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from .addresses import validate_url


class Service(models.Model):
    """A site that is checked."""

    name = models.CharField(max_length=100)
    url = models.URLField("URL", unique=True, validators=[validate_url])

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def public_url(self) -> str:
        """The URL without credentials, because only the admin rejects URLs that contain them."""
        return re.sub("//[^/?#]*@", "//", self.url)


class Result(models.Model):
    """The result of one check of a service."""

    class State(models.TextChoices):
        UP = "up"
        SLOW = "slow"
        DOWN = "down"

    service = models.ForeignKey(Service, models.CASCADE, related_name="results")
    state = models.CharField(max_length=4, choices=State.choices)
    milliseconds = models.PositiveIntegerField()
    detail = models.CharField(max_length=100)
    checked = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.service}: {self.state}, {self.milliseconds} ms"

    @property
    def is_down(self) -> bool:
        return self.state == self.State.DOWN

    @property
    def height(self) -> int:
        """The height of the bar in the chart, from 1 to 30."""
        return max(1, min(30, round(self.milliseconds * 30 / 2000)))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that open pages receive, ready for JSON."""
        return {
            "id": self.id,
            "service": self.service_id,
            "state": self.state,
            "milliseconds": self.milliseconds,
            "detail": self.detail,
            "height": self.height,
            "checked": self.checked.isoformat(),
        }


class Lease(models.Model):
    """The lock of the active checker, which expires if the checker is killed."""

    holder = models.UUIDField()
    expires = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.holder} until {self.expires}"

    @classmethod
    async def acquire(cls, holder: uuid.UUID, seconds: float) -> bool:
        """Acquire or renew the lease; return False if another checker has it."""
        now = timezone.now()
        await cls.objects.aget_or_create(id=1, defaults={"holder": holder, "expires": now})
        available = cls.objects.filter(Q(holder=holder) | Q(expires__lte=now), id=1)
        expires = now + timedelta(seconds=seconds)
        return bool(await available.aupdate(holder=holder, expires=expires))

    @classmethod
    async def release(cls, holder: uuid.UUID) -> None:
        await cls.objects.filter(holder=holder).adelete()
