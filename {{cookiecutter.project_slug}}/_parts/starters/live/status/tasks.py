"""Emails to staff, as background tasks: they are queued in the database, and the worker runs them.

For 24 hours, the checker requeues tasks that failed or whose worker was killed. The worker may have
sent the email already, so an email can arrive twice, but none is lost.
"""

from datetime import timedelta

from django.contrib.auth import get_user_model
from django.core.mail import send_mail
from django.db.models import Q
{% if cookiecutter.django_version == "6.1" %}
from django.tasks import TaskResultStatus, task
{% endif %}
from django.utils import timezone
{% if cookiecutter.django_version == "5.2" %}
from django_tasks import TaskResultStatus, task
{% endif %}
from django_tasks_db.models import DBTaskResult

from .models import Result

TASK_TIMEOUT = timedelta(minutes=2)  # a task that has been running for longer was killed
RETRY_PERIOD = timedelta(days=1)


@task
def mail(address: str, subject: str, message: str) -> None:
    send_mail(subject, message, None, [address])


def notify_staff(result: Result) -> None:
    """Enqueue an email to each staff user: a service went down or is up again."""
    subject = f"{result.service} is {'down' if result.is_down else 'up again'}"
    message = f"{result.service.public_url}: {result.detail}, after {result.milliseconds} ms."
    staff = get_user_model().objects.filter(is_staff=True, is_active=True).exclude(email="")
    for user in staff:
        mail.enqueue(user.email, subject, message)


async def retry_failed_tasks() -> None:
    """Requeue tasks that failed or whose worker was killed, and delete tasks older than a day."""
    now = timezone.now()
    killed = Q(status=TaskResultStatus.RUNNING, started_at__lt=now - TASK_TIMEOUT)
    failed = Q(status=TaskResultStatus.FAILED)
    successful = Q(status=TaskResultStatus.SUCCESSFUL)
    is_recent = Q(enqueued_at__gt=now - RETRY_PERIOD)
    unfinished = DBTaskResult.objects.filter(killed | failed, is_recent)
    await unfinished.aupdate(status=TaskResultStatus.READY)
    await DBTaskResult.objects.filter(killed | failed | successful, ~is_recent).adelete()
