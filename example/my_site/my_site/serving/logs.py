"""Logs on standard output, each line with the id of its request."""

import asyncio
import logging
import re
from contextvars import ContextVar
from functools import partial
from random import getrandbits
from typing import Any

from django.conf import settings
from django.utils.log import AdminEmailHandler, RequireDebugFalse
from pythonjsonlogger.core import RESERVED_ATTRS

request_id: ContextVar[str] = ContextVar("request_id", default="-")


def take_request_id(sent: str) -> str:
    """Set the current request's id, and return it.

    It is `sent`, an X-Request-ID header, or a new id if `sent` is invalid.
    """
    if not re.fullmatch(r"[A-Za-z0-9._:=+/-]{1,128}", sent):
        sent = f"{getrandbits(64):016x}"
    request_id.set(sent)
    return sent


class RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class CancelledFilter(logging.Filter):
    """Drops the error that uvicorn logs for each stream that it cancels at shutdown."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class AdminMailHandler(AdminEmailHandler):
    """Emails errors to ADMINS after the response, which does not wait for the mail server."""

    def emit(self, record: logging.LogRecord) -> None:
        if settings.ADMINS:  # Django would build a report even without recipients
            super().emit(record)

    def send_mail(self, *args: Any, **options: Any) -> None:
        from .deferred_calls import defer  # not at the top: the settings import this module

        defer(partial(super().send_mail, *args, **options))


def logging_config(formatter: str) -> dict[str, Any]:
    """Return the setting LOGGING. `formatter` is "text", or "json" for a JSON object per line."""
    to_root = {"handlers": [], "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "request_id": {"()": RequestIdFilter},
            "debug_is_off": {"()": RequireDebugFalse},
            "cancelled": {"()": CancelledFilter},
        },
        "formatters": {
            "text": {"format": "{levelname} {name} [{request_id}]: {message}", "style": "{"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "{levelname}{name}{message}{request_id}",
                "style": "{",
                "timestamp": "time",
                "rename_fields": {"levelname": "level", "name": "logger"},
                # Django adds the request, which cannot be serialized as JSON.
                "reserved_attrs": [*RESERVED_ATTRS, "request"],
            },
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": formatter,
                "filters": ["request_id"],
            },
            "mail": {"()": AdminMailHandler, "level": "ERROR", "filters": ["debug_is_off"]},
            "null": {"class": "logging.NullHandler"},
        },
        "root": {"handlers": ["console"], "level": "INFO"},
        "loggers": {
            # Their own handlers would print in another format, or print lines twice.
            "django": {**to_root, "handlers": ["mail"]},
            "uvicorn": to_root,
            "uvicorn.error": {**to_root, "filters": ["cancelled"]},
            "uvicorn.access": {"propagate": False},  # monitoring.py logs each request
            # The loggers of `runserver`: monitoring.py already logs its requests.
            "django.channels.server": {"handlers": ["null"], "propagate": False},
            "django.server": {"level": "ERROR"},
            "axes": {"level": "WARNING"},
            # Scanners send many requests for other hosts. They get 400; a traceback for each would
            # be noise.
            "django.security.DisallowedHost": {"handlers": ["null"], "propagate": False},
        },
    }
