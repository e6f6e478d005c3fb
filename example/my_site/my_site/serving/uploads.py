"""Uploaded files in debug mode. In production, the proxy serves them (see Caddyfile)."""

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.static import serve

# Types that a browser may display. Others, such as HTML or SVG, could run scripts as a page of the
# site.
SHOWN_TYPES = {"image/avif", "image/gif", "image/jpeg", "image/png", "image/webp"}


def serve_upload(request: HttpRequest, path: str) -> HttpResponseBase:
    response = serve(request, path, document_root=str(settings.MEDIA_ROOT))
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if response.get("Content-Type") not in SHOWN_TYPES:
        response.headers["Content-Disposition"] = "attachment"
    return response
