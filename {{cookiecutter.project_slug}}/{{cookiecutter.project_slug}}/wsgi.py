"""The WSGI entry point, for hosts that cannot serve ASGI."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{{ cookiecutter.project_slug }}.settings")

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from servestatic import ServeStatic

from {{ cookiecutter.project_slug }}.serving.static import add_security_headers

application = ServeStatic(
    get_wsgi_application(),
    root=settings.STATIC_ROOT,
    prefix=settings.STATIC_URL,
    autorefresh=settings.DEBUG,
    allow_all_origins=False,
    add_headers_function=add_security_headers,
)
