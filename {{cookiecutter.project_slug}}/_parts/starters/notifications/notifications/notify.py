"""Notify users from views, signals, commands and background tasks.

    await notify(user, "Your order is on its way.", reverse("order", args=[order.pk]))

When the current transaction commits, a notification is stored and pushed to the user's open pages.
"""

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction

from {{ cookiecutter.project_slug }}.serving.pubsub import publish_sync

from .models import Notification

# Published messages have no content: each stream queries the notifications of its own user.
CHANNEL_OF_ALL = "notifications"
BATCH_SIZE = 1000


def get_channel(user_id: object) -> str:
    return f"{CHANNEL_OF_ALL}.{user_id}"


async def notify(user: AbstractBaseUser, text: str, url: str = "") -> Notification:
    """Notify the user. Raise ValidationError if `url` is not a path on this site.

    In a transaction, call `notify_sync`, because transactions are synchronous.
    """
    return await sync_to_async(notify_sync)(user, text, url)


@transaction.atomic
def notify_sync(user: AbstractBaseUser, text: str, url: str = "") -> Notification:
    notification = Notification(user_id=user.pk, text=text, url=url)
    notification.clean_fields()
    notification.save()
    publish_sync(get_channel(user.pk), "")
    return notification


@transaction.atomic
def notify_all(text: str, url: str = "") -> int:
    """Notify each active user and return the number of users."""
    content = {"text": text, "url": url}
    Notification(**content).clean_fields(exclude=["user"])
    ids = list(get_user_model().objects.filter(is_active=True).values_list("pk", flat=True))
    for start in range(0, len(ids), BATCH_SIZE):
        batch = [Notification(user_id=id, **content) for id in ids[start : start + BATCH_SIZE]]
        Notification.objects.bulk_create(batch)
    publish_sync(CHANNEL_OF_ALL, "")
    return len(ids)


@transaction.atomic
def mark_as_read(user_id: Any, **lookups: Any) -> None:
    unread = Notification.objects.filter(user_id=user_id, is_read=False, **lookups)
    if unread.update(is_read=True):
        publish_sync(get_channel(user_id), "")
