"""Mails to the staff, as tasks: they wait in the database until the worker has sent them.

The checker gives back, for a day, what failed and what was in the hands of a worker that was
killed, even if that had just finished it: a mail may come twice, rather than never.
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

LONGEST = timedelta(minutes=2)  # that any task takes, unless its worker was killed
GIVE_UP = timedelta(days=1)


@task
def mail(address: str, subject: str, message: str) -> None:
    send_mail(subject, message, None, [address])


def tell_staff(result):
    """Have it mailed to all staff with an address that a service went down, or is up again."""
    subject = f"{result.service} is {'down' if result.is_down else 'up again'}"
    message = f"{result.service.public_url}: {result.detail}, after {result.milliseconds} ms."
    staff = get_user_model().objects.filter(is_staff=True, is_active=True).exclude(email="")
    for user in staff:
        mail.enqueue(user.email, subject, message)


async def try_again():
    """Give back to the worker what failed or was killed with it, and forget what is older than a day."""
    now = timezone.now()
    killed = Q(status=TaskResultStatus.RUNNING, started_at__lt=now - LONGEST)
    failed = Q(status=TaskResultStatus.FAILED)
    lost = DBTaskResult.objects.filter(killed | failed)
    await lost.filter(enqueued_at__gt=now - GIVE_UP).aupdate(status=TaskResultStatus.READY)
    done = Q(status=TaskResultStatus.SUCCESSFUL)
    old = DBTaskResult.objects.filter(killed | failed | done, enqueued_at__lte=now - GIVE_UP)
    await old.adelete()
