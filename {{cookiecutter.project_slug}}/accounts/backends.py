from axes.backends import AxesBackend
from django.contrib.auth.backends import BaseBackend, ModelBackend
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables


class LimitedModelBackend(AxesBackend):
    """Checks passwords as Django does, but only while django-axes allows another attempt.

    Calls of `authenticate` without a request are not limited: nobody knows from where they come.
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

    # ModelBackend's own would not ask django-axes.
    aauthenticate = BaseBackend.aauthenticate
