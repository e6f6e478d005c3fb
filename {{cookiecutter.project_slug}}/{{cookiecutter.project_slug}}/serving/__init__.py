"""What makes Django quick and safe on an ASGI server. It knows nothing of the other apps."""

{% if cookiecutter.__channels and cookiecutter.server != "daphne" %}
import os

{% endif %}
from django.conf import settings
from django.core.checks import Warning, register
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string


@register
def middleware_that_needs_threads(app_configs, **kwargs):
    """Name the middleware that costs every request to an async view a thread."""
    from .middleware import INSTEAD

    hint = "Is there one for async? See serving.middleware.OnLoop if it does no I/O."
    warnings = []
    for name in settings.MIDDLEWARE:
        middleware = import_string(INSTEAD.get(name, name))
        hops = getattr(middleware, "__acall__", None) is MiddlewareMixin.__acall__
        if hops or not getattr(middleware, "async_capable", False):
            message = f"{name} costs every request to an async view a thread."
            warnings.append(Warning(message, hint=hint, id="serving.W001"))
    return warnings
{% if cookiecutter.__channels and cookiecutter.server != "daphne" %}


@register
def channel_layer_for_several_processes(app_configs, **kwargs):
    processes = os.environ.get("WEB_CONCURRENCY", "1")
    if processes == "1" or settings.REDIS_URL:
        return []
    message = f"With WEB_CONCURRENCY={processes}, messages will not cross processes."
    return [Warning(message, hint="Set REDIS_URL.", id="serving.W002")]
{% endif %}
