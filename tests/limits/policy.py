"""A policy that depends on the request, as django-csp 4 documents it, and a view of what comes too late."""

import dataclasses

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from csp.exceptions import CSPNonceError
from wiki.serving.csp import CSPMiddleware


class RequestPolicyMiddleware(CSPMiddleware):
    def get_policy_parts(self, request, response, report_only=False):
        parts = super().get_policy_parts(request, response, report_only)
        return dataclasses.replace(parts, update={"connect-src": [request.GET.get("source", "'self'"), request.method]})


class LateNonceMiddleware:
    """Outside of the policy's: it asks for the nonce when the header has been written."""

    async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        markcoroutinefunction(self) if iscoroutinefunction(get_response) else None

    def __call__(self, request):
        return self.__acall__(request) if iscoroutinefunction(self) else ask_late(request, self.get_response(request))

    async def __acall__(self, request):
        return ask_late(request, await self.get_response(request))


def ask_late(request, response):
    try:
        response["X-Nonce"] = str(request.csp_nonce)
    except CSPNonceError:
        response["X-Nonce"] = "CSPNonceError"
    return response
