"""Response headers that restrict shared caches and browsers."""

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import has_vary_header, patch_cache_control
from django.utils.deprecation import MiddlewareMixin

from .middleware import AsyncMiddlewareMixin

# With one of these in Cache-Control, a view has decided whether a shared cache may store its
# response.
SHARED_CACHE_DIRECTIVES = ("public", "private", "no-store", "s-maxage")


class CacheControlMiddleware(AsyncMiddlewareMixin, MiddlewareMixin):
    """Keeps responses that depend on or set cookies out of shared caches, such as a proxy's.

    Django marks these responses with `Vary: Cookie`, which some caches ignore: they would show one
    user's page to another. Directives for shared caches that a view has set stay unchanged.
    """

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        if has_vary_header(response, "Cookie") or response.cookies:
            response.headers.setdefault("Cache-Control", "private")
            cache_control = response.headers["Cache-Control"].lower()
            if not any(directive in cache_control for directive in SHARED_CACHE_DIRECTIVES):
                patch_cache_control(response, private=True)
        return response


class SecurityHeadersMiddleware(AsyncMiddlewareMixin, MiddlewareMixin):
    """Adds SECURITY_HEADERS to responses, except for headers that the view has set."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        for name, value in settings.SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response
