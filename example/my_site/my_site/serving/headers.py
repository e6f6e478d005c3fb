"""Response headers: what shared caches may store, and what browsers may do with a page."""

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import has_vary_header, patch_cache_control
from django.utils.deprecation import MiddlewareMixin

from .middleware import AsyncMiddlewareMixin

# With one of these in Cache-Control, a view has decided whether a shared cache may store its response.
SHARED_CACHE_DIRECTIVES = ("public", "private", "no-store", "s-maxage")


class CacheControlMiddleware(AsyncMiddlewareMixin, MiddlewareMixin):
    """Forbids shared caches, such as a proxy's, to store responses that depend on cookies, or set one.

    Django marks them with `Vary: Cookie`, which not every cache follows: a page with one user's name
    would be shown to the next one. What a view says about shared caches stays as it is.
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
    """Adds SECURITY_HEADERS, except for those that the view has set."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        for name, value in settings.SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response
