"""The WSGI entry point, for hosts that cannot serve ASGI."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "my_site.settings")

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

from my_site.serving.static import add_security_headers

application = ServeStatic(
    get_wsgi_application(),
    root=settings.STATIC_ROOT,
    prefix=settings.STATIC_URL,
    autorefresh=settings.DEBUG,
    allow_all_origins=False,
    add_headers_function=add_security_headers,
)
