"""A policy that depends on the request, as django-csp 4 documents it, and middleware that reads the nonce too late."""

import dataclasses
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from csp.exceptions import CSPNonceError
from csp.middleware import PolicyParts
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from wiki.serving.csp import CSPMiddleware


class RequestPolicyMiddleware(CSPMiddleware):
    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        return dataclasses.replace(parts, update={"connect-src": [request.GET.get("source", "'self'"), request.method]})


class LateNonceMiddleware:
    """Goes outside of the policy's middleware, so that it reads the nonce after the header was set."""

    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self) if iscoroutinefunction(get_response) else None

    def __call__(self, request: HttpRequest) -> Any:
        return (
            self.__acall__(request)
            if iscoroutinefunction(self)
            else add_nonce_late(request, self.get_response(request))
        )

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        return add_nonce_late(request, await self.get_response(request))


def add_nonce_late(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    try:
        response["X-Nonce"] = str(getattr(request, "csp_nonce"))  # noqa: B009 (a request's type has no such attribute)
    except CSPNonceError:
        response["X-Nonce"] = "CSPNonceError"
    return response
