import re
import uuid
from datetime import timedelta

from django.db import models
from django.db.models import Q
from django.utils import timezone

from .addresses import validate_url


class Service(models.Model):
    """Somebody's site that is looked after."""

    name = models.CharField(max_length=100)
    url = models.URLField("URL", unique=True, validators=[validate_url])

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name

    @property
    def public_url(self) -> str:
        """The URL without credentials, which a row that was not saved in the admin may hold."""
        return re.sub("//[^/?#]*@", "//", self.url)


class Result(models.Model):
    """What came of one look at a service."""

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

    def __str__(self):
        return f"{self.service}: {self.state}, {self.milliseconds} ms"

    @property
    def is_down(self):
        return self.state == self.State.DOWN

    @property
    def height(self):
        """Of its bar in the chart, from 1 to 30."""
        return max(1, min(30, round(self.milliseconds * 30 / 2000)))

    def as_dict(self):
        """What an open page receives, ready for JSON."""
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
    """Held by the one checker that is at work; a checker that died holds it until it expires."""

    holder = models.UUIDField()
    expires = models.DateTimeField()

    def __str__(self):
        return f"{self.holder} until {self.expires}"

    @classmethod
    async def take(cls, holder: uuid.UUID, seconds: float) -> bool:
        """Hold it for some seconds from now; False if somebody else does."""
        now = timezone.now()
        await cls.objects.aget_or_create(id=1, defaults={"holder": holder, "expires": now})
        free = cls.objects.filter(Q(holder=holder) | Q(expires__lte=now), id=1)
        return bool(await free.aupdate(holder=holder, expires=now + timedelta(seconds=seconds)))

    @classmethod
    async def give_back(cls, holder: uuid.UUID):
        await cls.objects.filter(holder=holder).adelete()
