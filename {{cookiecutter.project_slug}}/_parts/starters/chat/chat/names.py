"""The display names of users and guests."""

import secrets
from collections.abc import Mapping

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest

GUEST_COOKIE = "guest"
# No vowels, so that no name is a word, and no characters that look alike.
GUEST_CHARACTERS = "23456789bcdfghjkmnpqrstvwxyz"


def get_display_name(user: AbstractBaseUser | AnonymousUser, cookies: Mapping[str, str]) -> str:
    """Return the username, the guest name in the signed cookie, or a new guest name."""
    if user.is_authenticated:
        return user.get_username()
    request = HttpRequest()
    request.COOKIES = dict(cookies)
    return request.get_signed_cookie(GUEST_COOKIE, default="") or new_guest_name()


def new_guest_name() -> str:
    """Return a random name. There are too many to get another guest's name by trying often."""
    # Usernames cannot contain a space, so no user has a guest's name.
    return f"Guest {''.join(secrets.choice(GUEST_CHARACTERS) for _ in range(8))}"
