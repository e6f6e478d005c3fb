"""Uploaded files while debugging. In production the proxy sends them, with the same headers: Caddyfile."""

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.views.static import serve

# What a browser may show. Anything else, such as HTML or SVG, could run scripts as a page of the site.
SHOWN_TYPES = {"image/avif", "image/gif", "image/jpeg", "image/png", "image/webp"}


def serve_upload(request: HttpRequest, path: str) -> HttpResponseBase:
    response = serve(request, path, document_root=str(settings.MEDIA_ROOT))
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if response.get("Content-Type") not in SHOWN_TYPES:
        response.headers["Content-Disposition"] = "attachment"
    return response
