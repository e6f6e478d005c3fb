"""Under which name somebody speaks."""

import secrets
from collections.abc import Mapping

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

GUEST_COOKIE = "guest"
# No vowels and nothing that looks like another: a name is no word, and is read in one way only.
GUEST_CHARACTERS = "23456789bcdfghjkmnpqrstvwxyz"


def name_of(user: AbstractBaseUser | AnonymousUser, cookies: Mapping[str, str]) -> str:
    """Return the user's name or, from its signed cookie, the guest's; a guest without one gets a new name."""
    if user.is_authenticated:
        return user.get_username()
    request = HttpRequest()
    request.COOKIES = dict(cookies)
    return request.get_signed_cookie(GUEST_COOKIE, default="") or new_guest_name()


def new_guest_name() -> str:
    """Return one of so many names that nobody gets that of another guest by asking often."""
    # The blank keeps it apart from all user names, which have none.
    return f"Guest {''.join(secrets.choice(GUEST_CHARACTERS) for _ in range(8))}"
