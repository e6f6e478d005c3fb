"""A wrong variable ends the start with one sentence, which names it, and what is accepted."""

import os
import subprocess

import pytest

from tests.template import SERVERS

WRONG = [
    ("DJANGO_DEBUG", "maybe", "'maybe' cannot be used. Accepted: true or false."),
    ("DJANGO_SECRET_KEY", "", "is not set. For development copy"),
    ("DJANGO_SECRET_KEY", "  ", "is not set. For development copy"),
    ("DJANGO_ALLOWED_HOSTS", "example.com,https://b.example", "'https://b.example' cannot be used. Accepted: names of"),
    (
        "DJANGO_ALLOWED_HOSTS",
        "example.com:8000",
        "'example.com:8000' cannot be used. Accepted: names of hosts, without",
    ),
    ("DJANGO_CSRF_TRUSTED_ORIGINS", "example.com", "'example.com' cannot be used. Accepted: origins such as https://"),
    ("DATABASE_URL", "foo", "cannot be used. Accepted: a URL, postgres://… or postgresql://…"),
    ("DATABASE_URL", "mysql://ada:secret-word@localhost/db", "cannot be used. Accepted: a URL, postgres"),
    ("DATABASE_URL", "postgres://ada:secret-word@localhost:port/db", "cannot be used. Accepted: a URL, postgres"),
    ("DATABASE_URL", "", "is not set. It says where: postgres://"),
    ("REDIS_URL", "localhost:6379", "cannot be used. Accepted: a URL, redis://… or rediss://… or unix://…"),
    ("REDIS_SSL_CERT_REQS", "optional", "'optional' cannot be used. Accepted: required or none."),
    ("EMAIL_URL", "mail.example.com", "cannot be used. Accepted: a URL, smtp://…"),
    ("ASGI_THREADS", "-1", "'-1' cannot be used. Accepted: a whole number from 1 to 1000."),
    ("ASGI_THREADS", "0", "'0' cannot be used. Accepted: a whole number"),
    ("ASGI_THREADS", "ten", "'ten' cannot be used. Accepted: a whole number"),
    ("PORT", "abc", "'abc' cannot be used. Accepted: a whole number from 1 to 65535."),
    ("PORT", "65536", "'65536' cannot be used. Accepted: a whole number from 1 to 65535."),
    ("WEB_CONCURRENCY", "0", "'0' cannot be used. Accepted: a whole number from 1"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.0/33", "'10.0.0.0/33' cannot be used. Accepted: addresses or networks"),
    ("FORWARDED_ALLOW_IPS", "proxy", "'proxy' cannot be used. Accepted: addresses or networks"),
    ("DJANGO_SCRIPT_NAME", "app", "'app' cannot be used. Accepted: a path such as /app."),
    ("DJANGO_LOG_FORMAT", "xml", "'xml' cannot be used. Accepted: text or json."),
]
RIGHT = {
    "DJANGO_DEBUG": ["", "TRUE", "off", "0", "yes"],
    "DJANGO_ALLOWED_HOSTS": ["", "*", ".example.com, 192.0.2.1 ,[::1]"],
    "DJANGO_CSRF_TRUSTED_ORIGINS": ["", "https://*.example.com,http://localhost:8000"],
    "DATABASE_URL": ["postgresql://ada:p%40ss@db.example.com:5432/site", "postgres://"],
    "REDIS_URL": ["", "redis://localhost:6379/0", "rediss://:word@cache.example.com"],
    "REDIS_SSL_CERT_REQS": ["", "none"],
    "EMAIL_URL": ["", "smtp+tls://user:word@mail.example.com:587", "consolemail://"],
    "ASGI_THREADS": ["", "1", "1000"],
    "FORWARDED_ALLOW_IPS": ["", "*", "10.0.0.0/8, ::1"],
    "DJANGO_SCRIPT_NAME": ["", "/", "/app", "/sites/my-site/"],
    "DJANGO_LOG_FORMAT": ["", "json"],
}


@pytest.fixture
def start(project):
    made = project(database="postgresql", channels=True).in_production("postgres://ada@localhost/site")

    def start(variable, value):
        made.environment[variable] = value
        try:
            return made.run(str(made.python), "-m", "wiki.settings", check=False)
        finally:
            made.__dict__.pop("environment")

    return start


def test_wrong_values(start):
    for variable, value, sentence in WRONG:
        result = start(variable, value)
        assert result.returncode == 1, (variable, value)
        assert result.stderr.startswith(f"{variable}"), result.stderr
        assert sentence in result.stderr
        assert (result.stdout, result.stderr.count("\n")) == ("", 1), result
        assert "secret-word" not in result.stderr


def test_right_values(start):
    for variable, values in RIGHT.items():
        for value in values:
            result = start(variable, value)
            assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), (variable, value)


@pytest.mark.skipif(os.name == "nt", reason="the lines of the Procfile are for a POSIX shell")
@pytest.mark.parametrize("server", SERVERS)
def test_every_server(server, project):
    made = project(server=server)
    for variable, value in (
        ("PORT", "abc"),
        ("ASGI_THREADS", "-1"),
        ("DATABASE_URL", "foo"),
        ("DJANGO_DEBUG", "maybe"),
    ):
        environment = made.environment | {variable: value}
        command = ["sh", "-c", made.procfile()["web"]]
        result = subprocess.run(
            command, cwd=made.path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 1
        assert result.stderr.startswith(variable)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1)
