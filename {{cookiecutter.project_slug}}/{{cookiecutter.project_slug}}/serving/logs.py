"""Logs on standard output, each line with the id of the request that it belongs to."""

{% if cookiecutter.server in ("uvicorn", "gunicorn") %}
import asyncio
{% endif %}
import logging
import re
from contextvars import ContextVar
from random import getrandbits

from pythonjsonlogger.core import RESERVED_ATTRS

request_id = ContextVar("request_id", default="-")


def take_request_id(sent):
    """Keep `sent`, an X-Request-ID header, as the current request's id if it is sane; else make one."""
    if not re.fullmatch(r"[A-Za-z0-9._:=+/-]{1,128}", sent):
        sent = f"{getrandbits(64):016x}"
    request_id.set(sent)
    return sent


class AddRequestId(logging.Filter):
    def filter(self, record):
        record.request_id = request_id.get()
        return True


{% if cookiecutter.server in ("uvicorn", "gunicorn") %}
class WithoutCancelled(logging.Filter):
    """Uvicorn cancels streams when it stops, and would log each of them as an error."""

    def filter(self, record):
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


{% endif %}
def logs_as(form):
    """The setting LOGGING for lines of text (`form` is "text") or of JSON ("json")."""
    to_root = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
{% if cookiecutter.server in ("uvicorn", "gunicorn") %}
        "filters": {
            "request_id": {"()": AddRequestId},
            "without_cancelled": {"()": WithoutCancelled},
        },
{% else %}
        "filters": {"request_id": {"()": AddRequestId}},
{% endif %}
        "formatters": {
            "text": {"format": "{levelname} {name} [{request_id}]: {message}", "style": "{"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "{levelname}{name}{message}{request_id}",
                "style": "{",
                "timestamp": "time",
                "rename_fields": {"levelname": "level", "name": "logger"},
                # Django adds the request, which is no text.
                "reserved_attrs": [*RESERVED_ATTRS, "request"],
            },
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": form,
                "filters": ["request_id"],
            },
            "null": {"class": "logging.NullHandler"},
        },
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {
            # They have handlers of their own, which would print in another form, or a second time.
            "django": to_root,
{% if cookiecutter.server == "uvicorn" %}
            "uvicorn": to_root,
            "uvicorn.error": {**to_root, "filters": ["without_cancelled"]},
            "uvicorn.access": {"propagate": False},  # there is a line for each request already
{% elif cookiecutter.server == "gunicorn" %}
            "gunicorn.error": to_root,
            "uvicorn.error": {**to_root, "filters": ["without_cancelled"]},
{% elif cookiecutter.server == "granian" %}
            "_granian": to_root,
{% endif %}
            "axes": {"level": "WARNING"},
            # Whoever asks for a name that is not the site's gets 400; no need for a traceback each time.
            "django.security.DisallowedHost": {"handlers": ["null"], "propagate": False},
{% if cookiecutter.starter == "live" %}
            # A line for each service that is checked.
            "httpx2": {"level": "WARNING"},
{% endif %}
        },
    }
