from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.http import url_has_allowed_host_and_scheme

UNREAD = models.Q(is_read=False)  # a user has few of them, and each page counts them


def is_path(url: str) -> bool:
    """Return whether every browser resolves the URL to this site."""
    return url.startswith("/") and url_has_allowed_host_and_scheme(url, allowed_hosts=None)


def validate_path(url: str) -> None:
    if not is_path(url):
        raise ValidationError(f"{url!r} is not a path on this site, such as /accounts/.")


class Message(models.Model):
    text = models.CharField(max_length=500)
    url = models.CharField("path", max_length=500, blank=True, validators=[validate_path])
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.text[:50]


class Notification(Message):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    is_read = models.BooleanField(default=False)

    class Meta:
        indexes = [models.Index(fields=["user", "id"], condition=UNREAD, name="unread_of_user")]

    @property
    def path(self) -> str:
        """The URL, or "" if it leads to another site: a row can be saved without validation."""
        return self.url if is_path(self.url) else ""


class Announcement(Message):
    """A message from staff to all users. Each user has a notification of their own."""

    recipients = models.PositiveIntegerField(editable=False)
