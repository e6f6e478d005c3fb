"""Authentication of API requests, by token or by the session of a browser."""

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.http import HttpRequest
from ninja.errors import AuthenticationError, AuthorizationError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from .models import Token, hash_secret


class AuthenticatedRequest(HttpRequest):
    auth: Any  # the user


class TokenAuth(HttpBearer):
    """Authenticates by `Authorization: Bearer …`. Browsers never add it, so CSRF is not checked."""

    async def authenticate(self, request: HttpRequest, token: str) -> AbstractBaseUser:
        tokens = Token.objects.filter(digest=hash_secret(token), user__is_active=True)
        found = await tokens.select_related("user").afirst()
        if found is None:  # do not fall back to the session: the client meant the token
            raise AuthenticationError(message="The token is invalid or was revoked.")
        return found.user


class SessionAuth(APIKeyCookie):
    """Authenticates by the session cookie. Browsers send it for other sites, so CSRF is checked."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self) -> None:
        super().__init__(csrf=False)  # django-ninja would check it on the event loop

    async def authenticate(self, request: HttpRequest, key: str | None) -> AbstractBaseUser | None:
        user = await request.auser()
        if not user.is_authenticated:
            return None
        # In a thread, because the check may read a form.
        if await sync_to_async(check_csrf)(request):
            raise AuthorizationError(message="The header X-CSRFToken is missing or invalid.")
        return user
