from typing import Any

from django import template
from django.core.exceptions import SynchronousOnlyOperation

from ..models import Notification

register = template.Library()


@register.simple_tag
def count_unread(user: Any) -> int | None:
    """Return the number, or None in an async view: the event stream sends the number later."""
    try:
        return Notification.objects.filter(user_id=user.pk, is_read=False).count()
    except SynchronousOnlyOperation:
        return None
