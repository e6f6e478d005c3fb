"""Creates `.env`, reads it and the environment, and reports each invalid variable in one line."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import dj_database_url
import dj_email_url
import environs
from django.conf.global_settings import LANGUAGES
from dotenv import load_dotenv
from environs import ValidationError, validate

EMAIL_SCHEMES = ["smtp", "submission", "console", "file", "memory", "dummy"]
SECRET_VARIABLE = re.compile("KEY|PASSWORD|SECRET|TOKEN|URL")
HINTS = {
    "DJANGO_SECRET_KEY": (
        "For development, copy .env.example to .env, as `manage.py runserver` does; "
        "in production, set the variable."
    ),
}


class Env(environs.Env):
    """Treats empty variables as unset, and never shows secrets in errors."""

    def __init__(self, path: Path) -> None:
        # Docker Compose does not interpolate values in single quotes, either.
        load_dotenv(path, interpolate=False)
        if "PYTEST_VERSION" in os.environ:  # a new clone has no .env, but its tests must run
            load_dotenv(path.with_name(".env.example"), interpolate=False)
        super().__init__(eager=False)
        self.add_parser("csv", parse_csv)
        self.add_parser("service_url", parse_url)
        self.add_parser("database_url", partial(parse_url, parse=dj_database_url.parse))
        email = {"schemes": EMAIL_SCHEMES, "parse": dj_email_url.parse}
        self.add_parser("email_url", partial(parse_url, **email))

    def _get_value(self, env_key: str, default: Any) -> Any:
        value = super()._get_value(env_key, default)
        return value.strip() or default if isinstance(value, str) else value

    def seal(self) -> None:
        try:
            super().seal()
        except environs.EnvValidationError as error:
            errors: Any = error.error_messages
            lines = [format_error(name, errors[name]) for name in errors]
            raise SystemExit("\n".join(lines)) from None


def make_env_file(path: Path) -> None:
    """Create .env in a new clone: copy .env.example, which has settings for development."""
    if os.environ.keys() & {"DJANGO_DEBUG", "DJANGO_SECRET_KEY"}:
        return
    with suppress(OSError):  # .env.example is missing, .env exists, or the folder is read-only
        example = path.with_name(".env.example").read_bytes()
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(example)
        print(f"{path.name} was missing, so .env.example was copied to it, for development.")


def format_error(name: str, messages: list[str]) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        return f"{name} is not set. {HINTS.get(name, '')}".rstrip()
    accepted, _, word = " and ".join(map(str, messages)).partition("\n")
    shown = "" if SECRET_VARIABLE.search(name) else f"={word or repr(value)}"
    return f"{name}{shown} cannot be used. Accepted: {accepted}."


def parse_csv(value: str, validate_each: Callable[[str], Any]) -> list[str]:
    words = [word.strip() for word in value.split(",") if word.strip()]
    for word in words:
        try:
            validate_each(word)
        except ValidationError as error:
            accepted = f"{error.messages[0]}, separated by commas"
            raise ValidationError(f"{accepted}\n{word!r}") from None
    return words


def parse_url(value: str, schemes: list[str], parse: Callable[[str], Any] = str) -> Any:
    """Parse a URL that has one of the schemes. (environs' own parsers accept others, too.)"""
    try:
        url = urlsplit(value)
        if not value or (url.scheme in schemes and "://" in value and url.port != 0):
            return parse(value)
    except ValueError:
        pass
    raise ValidationError("a URL, " + " or ".join(f"{scheme}://…" for scheme in schemes))


# Each error says what is accepted.
host = validate.Regexp(
    r"(\*|\.?[\w.-]+|\[[0-9A-Fa-f:]+\])\Z", error="host names without scheme or port"
)
origin = validate.Regexp(r"https?://[^/\s]+\Z", error="origins such as https://www.example.com")
url_path = validate.Regexp(r"(/[\w.~-]+)*/*\Z", error="a path such as /app")
address = validate.Email(error="email addresses such as ada@example.com")
bool_errors: dict[str, Any] = {"error_messages": {"invalid": "true or false"}}


def network(word: str) -> None:
    try:
        word == "*" or ip_network(word)
    except ValueError:
        raise ValidationError("IP addresses or networks such as 10.0.0.0/8, or *") from None


def language(word: str) -> None:
    if word.partition("-")[0] not in {code.partition("-")[0] for code, _ in LANGUAGES}:
        raise ValidationError("a language that Django supports, such as de or pt-br")


def time_zone(word: str) -> None:
    try:
        ZoneInfo(word)
    except (ValueError, OSError, KeyError):
        raise ValidationError("a time zone such as Europe/Berlin") from None


def one_of(*choices: str) -> validate.OneOf:
    return validate.OneOf(choices, error=" or ".join(choices))


def whole_number(minimum: int, maximum: int) -> dict[str, Any]:
    accepted = f"a whole number from {minimum} to {maximum}"
    return {
        "validate": validate.Range(minimum, maximum, error=accepted),
        "error_messages": {"invalid": accepted},
    }
