"""The ASGI entry point: `application` is what the server runs.

The server calls it once for each request, with three arguments. `scope` is a dict
that describes the request. The application awaits `receive` to get events from the client, and
`send` to respond. Each step below wraps the application of the previous step.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "my_site.settings")

from django.conf import settings

from my_site.serving.handler import get_asgi_application
from my_site.serving.limits import BodyLimitMiddleware
from my_site.serving.proxy import ProxyHeadersMiddleware
from my_site.serving.scope import ScopeMiddleware
from my_site.serving.static import serve_static_files
from my_site.serving.threads import ThreadPool

# A faster version of django.core.asgi.get_asgi_application.
pool = ThreadPool()
application = get_asgi_application(pool)
application = BodyLimitMiddleware(application, limit=100 * 1024 * 1024)
application = serve_static_files(application)
application = ScopeMiddleware(application, root_path=settings.SCRIPT_NAME)
application = ProxyHeadersMiddleware(application, trusted=settings.FORWARDED_ALLOW_IPS)
