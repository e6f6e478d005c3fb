"""An invalid variable stops startup with one line, which names it and says what is accepted."""

import os
import subprocess
from typing import Protocol

import pytest
import yaml

from tests.template import SERVERS, Docker, MakeProject, also_in_test_all

INVALID_VALUES = [
    ("DJANGO_DEBUG", "maybe", "'maybe' cannot be used. Accepted: true or false."),
    ("DJANGO_SECRET_KEY", "", "is not set. For development, copy"),
    ("DJANGO_SECRET_KEY", "  ", "is not set. For development, copy"),
    (
        "DJANGO_ALLOWED_HOSTS",
        "example.com,https://b.example",
        "'https://b.example' cannot be used. Accepted: host names",
    ),
    (
        "DJANGO_ALLOWED_HOSTS",
        "example.com:8000",
        "'example.com:8000' cannot be used. Accepted: host names without",
    ),
    ("DJANGO_CSRF_TRUSTED_ORIGINS", "example.com", "'example.com' cannot be used. Accepted: origins such as https://"),
    ("DATABASE_URL", "foo", "cannot be used. Accepted: a URL, postgres://… or postgresql://…"),
    ("DATABASE_URL", "mysql://ada:secret-word@localhost/db", "cannot be used. Accepted: a URL, postgres"),
    ("DATABASE_URL", "postgres://ada:secret-word@localhost:port/db", "cannot be used. Accepted: a URL, postgres"),
    ("DATABASE_URL", "", "is not set. Example: postgres://"),
    ("REDIS_URL", "localhost:6379", "cannot be used. Accepted: a URL, redis://… or rediss://… or unix://…"),
    ("EMAIL_URL", "smtp+tls://ada:secret-word@mail.example.com", "cannot be used. Accepted: a URL, smtp://…"),
    ("EMAIL_URL", "smtp://ada:secret-word@mail.example.com?timeout=soon", "cannot be used. Accepted: a URL, smtp://…"),
    ("REDIS_SSL_CERT_REQS", "optional", "'optional' cannot be used. Accepted: required or none."),
    ("EMAIL_URL", "mail.example.com", "cannot be used. Accepted: a URL, smtp://…"),
    ("ASGI_THREADS", "-1", "'-1' cannot be used. Accepted: a whole number from 1 to 1000."),
    ("ASGI_THREADS", "0", "'0' cannot be used. Accepted: a whole number"),
    ("ASGI_THREADS", "ten", "'ten' cannot be used. Accepted: a whole number"),
    ("PORT", "abc", "'abc' cannot be used. Accepted: a whole number from 1 to 65535."),
    ("PORT", "9" * 5000, "cannot be used. Accepted: a whole number from 1 to 65535."),
    ("PORT", "65536", "'65536' cannot be used. Accepted: a whole number from 1 to 65535."),
    ("WEB_CONCURRENCY", "0", "'0' cannot be used. Accepted: a whole number from 1"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.0/33", "'10.0.0.0/33' cannot be used. Accepted: IP addresses or networks"),
    ("FORWARDED_ALLOW_IPS", "proxy", "'proxy' cannot be used. Accepted: IP addresses or networks"),
    ("DJANGO_SCRIPT_NAME", "app", "'app' cannot be used. Accepted: a path such as /app."),
    ("DJANGO_SECURE_SSL_REDIRECT", "maybe", "'maybe' cannot be used. Accepted: true or false."),
    ("DJANGO_SECURE_HSTS_SECONDS", "-1", "'-1' cannot be used. Accepted: a whole number from 0 to 100000000."),
    ("DJANGO_LANGUAGE_CODE", "klingon", "'klingon' cannot be used. Accepted: a language that Django supports, such as"),
    ("DJANGO_TIME_ZONE", "Berlin", "'Berlin' cannot be used. Accepted: a time zone such as Europe/Berlin."),
    ("DJANGO_TIME_ZONE", "../UTC", "'../UTC' cannot be used. Accepted: a time zone such as"),
    (
        "ADMINS",
        "ada@example.com,grace",
        "'grace' cannot be used. Accepted: email addresses such as ada@example.com, sep",
    ),
    ("DJANGO_LOG_FORMAT", "xml", "'xml' cannot be used. Accepted: text or json."),
]
VALID_VALUES = {
    "DJANGO_DEBUG": ["", " ", "TRUE", "off", "0", "yes"],
    "DJANGO_SECRET_KEY": ["$abc", "$HOME", "${HOME}", "{{HOME}}"],
    "DJANGO_ALLOWED_HOSTS": ["", "*", ".example.com, 192.0.2.1 ,[::1],"],
    "DJANGO_CSRF_TRUSTED_ORIGINS": ["", "https://*.example.com,http://localhost:8000"],
    "DATABASE_URL": ["postgresql://ada:p%40ss@db.example.com:5432/site", "postgres://"],
    "REDIS_URL": ["", "redis://localhost:6379/0", "rediss://:word@cache.example.com"],
    "EMAIL_URL": ["", "submission://user:word@mail.example.com:587", "console://", "file:////tmp/mails"],
    "REDIS_SSL_CERT_REQS": ["", "none"],
    "ASGI_THREADS": ["", "1", "1000"],
    "FORWARDED_ALLOW_IPS": ["", "*", "10.0.0.0/8, ::1"],
    "DJANGO_SCRIPT_NAME": ["", "/", "/app", "/sites/my-site/"],
    "DJANGO_SECURE_SSL_REDIRECT": ["", "false"],
    "DJANGO_SECURE_HSTS_SECONDS": ["", "0", "31536000"],
    "DJANGO_LANGUAGE_CODE": ["", "de", "pt-br", "zh-hans", "de-ch"],
    "DJANGO_TIME_ZONE": ["", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"],
    "DEFAULT_FROM_EMAIL": ["", "Wiki <wiki@example.com>"],
    "ADMINS": ["", "ada@example.com, grace@example.com"],
    "DJANGO_MEDIA_ROOT": ["", "/srv/media", "elsewhere"],
    "DJANGO_LOG_FORMAT": ["", "json"],
}


class LoadSettings(Protocol):
    def __call__(self, variable: str, value: str, **others: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def load_settings(make_project: MakeProject) -> LoadSettings:
    project = make_project(database="postgresql", channels=True).in_production("postgres://ada@localhost/site")

    def load_settings(variable: str, value: str, **others: str) -> subprocess.CompletedProcess[str]:
        project.environment |= {variable: value, **others}
        try:
            return project.run(str(project.python), "-m", "wiki.settings", check=False)
        finally:
            project.__dict__.pop("environment")

    return load_settings


def test_invalid_values(load_settings: LoadSettings) -> None:
    for variable, value, sentence in INVALID_VALUES:
        result = load_settings(variable, value)
        assert result.returncode == 1, (variable, value)
        assert result.stderr.startswith(f"{variable}"), result.stderr
        assert sentence in result.stderr
        assert (result.stdout, result.stderr.count("\n")) == ("", 1), result
        assert "secret-word" not in result.stderr


def test_valid_values(load_settings: LoadSettings) -> None:
    for variable, values in VALID_VALUES.items():
        for value in values:
            result = load_settings(variable, value)
            assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), (variable, value)


MAIL_SCHEMES = " or ".join(f"{scheme}://…" for scheme in ("smtp", "submission", "console", "file", "memory", "dummy"))


def test_all_invalid_variables_at_once(load_settings: LoadSettings) -> None:
    result = load_settings(
        "DATABASE_URL",
        "mysql://ada:secret-word@localhost/db",
        DJANGO_LOG_FORMAT="xml\nlines",
        DJANGO_SCRIPT_NAME="app",
        DJANGO_SECRET_KEY="",
        EMAIL_URL="pigeon://secret-word",
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert sorted(result.stderr.splitlines()) == [
        "DATABASE_URL cannot be used. Accepted: a URL, postgres://… or postgresql://….",
        "DJANGO_LOG_FORMAT='xml\\nlines' cannot be used. Accepted: text or json.",
        "DJANGO_SCRIPT_NAME='app' cannot be used. Accepted: a path such as /app.",
        (
            "DJANGO_SECRET_KEY is not set. For development, copy .env.example to .env, as `manage.py runserver` does; "
            "in production, set the variable."
        ),
        f"EMAIL_URL cannot be used. Accepted: a URL, {MAIL_SCHEMES}.",
    ]


SECRET = '$abc $HOME ${HOME} #50% (of "it") =&!*'
IN_DOTENV = f"DJANGO_SECRET_KEY='{SECRET}'\nEMAIL_URL='submission://ada:$word@mail.example.com'\n"
SHOW_KEY = "from wiki import settings; print(settings.SECRET_KEY, settings.email['EMAIL_HOST_PASSWORD'], sep='\\n')"


def test_dollar_signs(make_project: MakeProject) -> None:
    project = make_project()
    (project.path / ".env").write_text(IN_DOTENV)
    assert project.run(str(project.python), "-c", SHOW_KEY).stdout == f"{SECRET}\n$word\n"
    project.environment["DJANGO_SECRET_KEY"] = "$HOME"
    assert project.run(str(project.python), "-c", SHOW_KEY).stdout == "$HOME\n$word\n"


def test_compose_reads_the_same(make_project: MakeProject, docker: Docker) -> None:
    project = make_project()
    # Version 1 of compose replaces ${HOME} even in single quotes.
    (project.path / ".env").write_text(IN_DOTENV.replace("${HOME} ", ""))
    config = yaml.safe_load(docker("compose", "config", cwd=project.path))
    web = {name: str(value).replace("$$", "$") for name, value in config["services"]["web"]["environment"].items()}
    assert web["EMAIL_URL"] == "submission://ada:$word@mail.example.com"
    assert project.run(str(project.python), "-c", SHOW_KEY).stdout == f"{web['DJANGO_SECRET_KEY']}\n$word\n"


MAIL_URLS = {
    "smtp://": ("localhost", 25, None, None, False, False, 10),
    "smtp://mail.example.com:2525": ("mail.example.com", 2525, None, None, False, False, 10),
    "submission://ada:p%40ss@mail.example.com": ("mail.example.com", 587, "ada", "p@ss", True, False, 10),
    "smtp://ada:word@mail.example.com:465?ssl=true": ("mail.example.com", 465, "ada", "word", False, True, 10),
    "smtp://ada:word@mail.example.com:25?tls=true&timeout=3": ("mail.example.com", 25, "ada", "word", True, False, 3),
}
SHOW_MAIL = (
    "import django; django.setup(); from django.core import mail\n"
    "backend = mail.mailers.default if django.VERSION > (6,) else mail.get_connection()\n"
    "names = ('host', 'port', 'username', 'password', 'use_tls', 'use_ssl', 'timeout')\n"
    "print(type(backend).__module__, [getattr(backend, name, None) or None for name in names])\n"
    "print(getattr(backend, 'file_path', None))"
)


@pytest.mark.parametrize("django_version", ["6.1", *also_in_test_all("5.2")])
def test_mail_urls(django_version: str, make_project: MakeProject) -> None:
    project = make_project(django_version=django_version)
    for url, expected in MAIL_URLS.items():
        project.environment["EMAIL_URL"] = url
        shown = project.run(str(project.python), "-c", SHOW_MAIL).stdout
        options = [value or None for value in expected]
        assert shown == f"django.core.mail.backends.smtp {options}\nNone\n", url
    for url, backend in {"console://": "console", "memory://": "locmem", "dummy://": "dummy", "": "console"}.items():
        project.environment["EMAIL_URL"] = url
        shown = project.run(str(project.python), "-c", SHOW_MAIL).stdout
        assert shown.startswith(f"django.core.mail.backends.{backend} "), url
    project.environment["EMAIL_URL"] = f"file:///{project.path}/mails"
    assert project.run(str(project.python), "-c", SHOW_MAIL).stdout.endswith(f"\n{project.path}/mails\n")


@pytest.mark.skipif(os.name == "nt", reason="the lines of the Procfile are for a POSIX shell")
@pytest.mark.parametrize("server", SERVERS)
def test_every_server(server: str, make_project: MakeProject) -> None:
    project = make_project(server=server)
    for variable, value in (
        ("PORT", "abc"),
        ("ASGI_THREADS", "-1"),
        ("DATABASE_URL", "foo"),
        ("DJANGO_DEBUG", "maybe"),
    ):
        environment = project.environment | {variable: value}
        command = ["sh", "-c", project.procfile()["web"]]
        result = subprocess.run(
            command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 1
        assert result.stderr.startswith(variable)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
