"""System checks: what costs time or connections under ASGI."""

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.middleware.security import SecurityMiddleware

from .middleware import import_async_middleware


@register
def middleware_that_needs_threads(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Name the middleware that costs every request to an async view a thread."""
    hint = (
        "Is there a version for async? If the class is made with MiddlewareMixin, does no I/O and "
        "keeps nothing in the thread (threading.local), use serving.middleware.AsyncMiddlewareMixin."
    )
    warnings: list[CheckMessage] = []
    for name in settings.MIDDLEWARE:
        middleware = import_async_middleware(name)
        # MiddlewareMixin's own method, taken from a subclass: Django 6.2 moves MiddlewareMixin itself.
        uses_threads = getattr(middleware, "__acall__", None) is SecurityMiddleware.__acall__
        if uses_threads or not getattr(middleware, "async_capable", False):
            message = f"{name} costs every request to an async view a thread."
            warnings.append(Warning(message, hint=hint, id="serving.W001"))
    return warnings


@register
def database_settings(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Name the settings of databases that do not go with ASGI."""
    messages: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        if database.get("ATOMIC_REQUESTS"):
            message = f"ATOMIC_REQUESTS of database {alias!r} makes async views server errors."
            hint = "Set it to False, and use transaction.atomic in the views that need it."
            messages.append(Error(message, hint=hint, id="serving.E003"))
        if database.get("CONN_MAX_AGE"):
            message = f"CONN_MAX_AGE of database {alias!r} leaks connections with Django's handler."
            hint = "Set it to 0: the project's own handler uses ASGI_CONN_MAX_AGE in its place."
            messages.append(Warning(message, hint=hint, id="serving.W004"))
    return messages


@register
def channel_layers_in_memory(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Name the channel layers that reach one process only, if there are several."""
    processes = getattr(settings, "WEB_CONCURRENCY", 1)
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if processes == 1 or not any("InMemory" in layer["BACKEND"] for layer in layers.values()):
        return []
    message = f"With WEB_CONCURRENCY={processes}, messages will not cross processes."
    return [
        Warning(message, hint="Use a channel layer that all processes share.", id="serving.W002")
    ]
