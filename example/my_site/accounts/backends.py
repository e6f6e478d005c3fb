"""Sign-in: Django's check of passwords, with a limit on failed attempts."""

from ipaddress import IPv6Address, ip_address

from axes.attempts import get_cool_off_threshold
from axes.backends import AxesBackend
from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth.backends import BaseBackend, ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import Sum
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables


class LimitedModelBackend(AxesBackend):
    """Checks passwords as Django does, but only while django-axes allows another attempt.

    Calls of `authenticate` without a request are not limited, since the client is unknown.
    """

    @sensitive_variables("password")
    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **credentials: object,
    ) -> AbstractBaseUser | None:
        if request is not None:
            super().authenticate(request, username, password, **credentials)  # or PermissionDenied
        return ModelBackend.authenticate(self, request, username, password, **credentials)

    # ModelBackend's own method bypasses django-axes.
    aauthenticate = BaseBackend.aauthenticate


class LimitedAddressHandler(AxesDatabaseHandler):
    """Also limits an IP address that tries many usernames."""

    def get_failures(self, request: HttpRequest, credentials: dict[str, str] | None = None) -> int:
        failures: int = super().get_failures(request, credentials)
        attempts = AccessAttempt.objects.filter(
            ip_address=get_client_network(request),
            attempt_time__gte=get_cool_off_threshold(request),
        )
        total = attempts.aggregate(failures=Sum("failures_since_start"))["failures"] or 0
        if total >= settings.ADDRESS_FAILURE_LIMIT:
            return max(failures, settings.AXES_FAILURE_LIMIT)
        return failures


def get_client_network(request: HttpRequest) -> str:
    """Return the client's IPv4 address, or its IPv6 /64 network, which is usually all its own."""
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:  # over a Unix socket
        return "::"
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
