"""The ASGI entry point: `application` is what the server runs.

The server calls it once for each request{{ " or WebSocket" if cookiecutter.__channels }}, with three arguments. `scope` is a dict
that describes the request. The application awaits `receive` to get events from the client, and
`send` to respond. Each step below wraps the application of the previous step.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{{ cookiecutter.project_slug }}.settings")

{% if cookiecutter.__channels %}
from channels.routing import ProtocolTypeRouter
{% endif %}
from django.conf import settings
{% if cookiecutter.__channels or cookiecutter.__lifespan %}
from django.utils.module_loading import import_string
{% endif %}

{% if cookiecutter.server in ("daphne", "hypercorn") %}
from {{ cookiecutter.project_slug }}.serving import graceful_shutdown, hardening
{% endif %}
from {{ cookiecutter.project_slug }}.serving.handler import get_asgi_application
{% if cookiecutter.server == "granian" and cookiecutter.__channels %}
from {{ cookiecutter.project_slug }}.serving.hardening import harden_websocket
{% endif %}
{% if cookiecutter.__lifespan %}
from {{ cookiecutter.project_slug }}.serving.lifespan import LifespanMiddleware
{% endif %}
from {{ cookiecutter.project_slug }}.serving.limits import BodyLimitMiddleware
from {{ cookiecutter.project_slug }}.serving.proxy import ProxyHeadersMiddleware
from {{ cookiecutter.project_slug }}.serving.scope import ScopeMiddleware
from {{ cookiecutter.project_slug }}.serving.static import serve_static_files
{% if cookiecutter.__channels %}
from {{ cookiecutter.project_slug }}.serving.threads import BackgroundThreadsMiddleware, ThreadPool
{% else %}
from {{ cookiecutter.project_slug }}.serving.threads import ThreadPool
{% endif %}

# A faster version of django.core.asgi.get_asgi_application.
pool = ThreadPool()
application = get_asgi_application(pool)
application = BodyLimitMiddleware(application, limit=100 * 1024 * 1024)
application = serve_static_files(application)
{% if cookiecutter.__lifespan %}
# Imported by name, since it may import models, which can be loaded only now.
state = import_string("{{ cookiecutter.project_slug }}.lifespan.state")
application = LifespanMiddleware(application, state, pool)
{% endif %}
{% if cookiecutter.__channels %}
# Imported by name, since consumers import models, which can be loaded only now.
websockets = import_string("{{ cookiecutter.project_slug }}.routing.websockets")
{% if cookiecutter.server == "granian" %}
websockets = harden_websocket(websockets, max_message_bytes=1024 * 1024)
{% endif %}
application = ProtocolTypeRouter(
    {
        "http": application,
        "lifespan": application,
        "websocket": BackgroundThreadsMiddleware(websockets, pool),
    }
)
{% endif %}
application = ScopeMiddleware(application, root_path=settings.SCRIPT_NAME)
application = ProxyHeadersMiddleware(application, trusted=settings.FORWARDED_ALLOW_IPS)
{% if cookiecutter.server in ("daphne", "hypercorn") %}

graceful_shutdown.install()
hardening.install()
{% endif %}
