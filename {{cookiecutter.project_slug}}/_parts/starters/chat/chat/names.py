"""The display names of users and guests."""

import secrets
from collections.abc import Mapping

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

GUEST_COOKIE = "guest"
# Without vowels, so that no name is a word, and without characters that look alike.
GUEST_CHARACTERS = "23456789bcdfghjkmnpqrstvwxyz"


def get_display_name(user: AbstractBaseUser | AnonymousUser, cookies: Mapping[str, str]) -> str:
    """Return the user's name or, from its signed cookie, the guest's; a guest without one gets a new name."""
    if user.is_authenticated:
        return user.get_username()
    request = HttpRequest()
    request.COOKIES = dict(cookies)
    return request.get_signed_cookie(GUEST_COOKIE, default="") or new_guest_name()


def new_guest_name() -> str:
    """Return one of so many names that nobody gets another guest's by asking often."""
    # Usernames have no space: no user can have a guest's name.
    return f"Guest {''.join(secrets.choice(GUEST_CHARACTERS) for _ in range(8))}"
