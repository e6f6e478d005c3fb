"""System checks for settings that cost time or connections under ASGI."""

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.middleware.security import SecurityMiddleware

from .middleware import import_async_middleware


@register
def middleware_that_needs_threads(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Warn about middleware that makes each request to an async view use a thread."""
    hint = (
        "Use an async-capable version. If the class is based on MiddlewareMixin, does no I/O and "
        "does not use threading.local, add serving.middleware.AsyncMiddlewareMixin to its bases."
    )
    warnings: list[CheckMessage] = []
    for name in settings.MIDDLEWARE:
        middleware = import_async_middleware(name)
        # MiddlewareMixin's method, read from a subclass since Django 6.2 moves MiddlewareMixin.
        uses_threads = getattr(middleware, "__acall__", None) is SecurityMiddleware.__acall__
        if uses_threads or not getattr(middleware, "async_capable", False):
            message = f"{name} makes each request to an async view use a thread."
            warnings.append(Warning(message, hint=hint, id="serving.W001"))
    return warnings


@register
def database_settings(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Report database settings that do not work under ASGI."""
    messages: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        if database.get("ATOMIC_REQUESTS"):
            message = f"ATOMIC_REQUESTS of database {alias!r} makes Django respond to async views with 500."
            hint = "Set it to False, and use transaction.atomic in the views that need it."
            messages.append(Error(message, hint=hint, id="serving.E003"))
        if database.get("CONN_MAX_AGE"):
            message = f"CONN_MAX_AGE of database {alias!r} leaks connections with Django's handler."
            hint = "Set it to 0: the project's own handler uses ASGI_CONN_MAX_AGE instead."
            messages.append(Warning(message, hint=hint, id="serving.W004"))
    return messages


@register
def channel_layers_in_memory(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Warn about in-memory channel layers if there are several processes."""
    processes = getattr(settings, "WEB_CONCURRENCY", 1)
    layers = getattr(settings, "CHANNEL_LAYERS", {})
    if processes == 1 or not any("InMemory" in layer["BACKEND"] for layer in layers.values()):
        return []
    message = f"In-memory channel layers do not connect WEB_CONCURRENCY={processes} processes."
    return [
        Warning(message, hint="Use a channel layer that all processes share.", id="serving.W002")
    ]
