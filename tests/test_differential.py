"""The core responds as Django's own handler does: the responses of both to the same random requests are compared."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

import pytest

from tests.template import ROOT, Answers, MakeProject, Project, also_in_test_all

REQUESTS = int(os.environ.get("DIFFERENTIAL_REQUESTS", "2000"))
RUNS = 4  # share REQUESTS, for each Django: with and without more middleware, with receivers or wrapped signals

SETTINGS = """
INSTALLED_APPS.append("differential")
ALLOWED_HOSTS = ["example.com"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LANGUAGES = [("en", "English"), ("de", "German")]
LOGGING["handlers"]["console"] = LOGGING["handlers"]["null"]
"""
# Outside of Django's middleware and inside of it.
MORE_MIDDLEWARE = """
MIDDLEWARE[2:2] = ["differential.middleware.MixinMiddleware", "django.middleware.http.ConditionalGetMiddleware"]
MIDDLEWARE += ["django.middleware.locale.LocaleMiddleware", "differential.middleware.ShortCutMiddleware"]
AUTHENTICATION_BACKENDS = ["differential.backends.SyncUserBackend"]
"""


@pytest.fixture
def make_differential_project(
    make_project: MakeProject, static_files: Callable[[Project], Path]
) -> Callable[..., Project]:
    """A project with the app, and `wiki/stock.py`: its asgi.py with Django's handler."""

    def make(settings: str, **answers: Unpack[Answers]) -> Project:
        project = make_project(**answers).in_production()
        shutil.copytree(static_files(project), project.path / "staticfiles")
        shutil.copytree(ROOT / "tests" / "differential", project.path / "differential")
        with (project.path / "wiki" / "settings.py").open("a") as file:
            file.write(f"{SETTINGS}{settings}")
        urls = project.path / "wiki" / "urls.py"
        include = 'path("differential/", include("differential.urls")),\n    path("",'
        urls.write_text(urls.read_text().replace('path("",', include, 1))
        text = (project.path / "wiki" / "asgi.py").read_text()
        ours = "from wiki.serving.handler import get_asgi_application"
        assert text.count(ours) == 1
        stock = text.replace(ours, "from django.core.asgi import get_asgi_application").replace("(pool)", "()")
        (project.path / "wiki" / "stock.py").write_text(stock)
        project.manage("migrate")
        project.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'right')")
        return project

    return make


@pytest.mark.parametrize(
    ("django_version", "middleware"),
    [("5.2", MORE_MIDDLEWARE), ("6.1", ""), *also_in_test_all(("5.2", ""), ("6.1", MORE_MIDDLEWARE))],
    ids=["5.2-more", "6.1-own", "5.2-own", "6.1-more"],
)
def test_the_core_responds_as_django_does(
    django_version: str, middleware: str, make_differential_project: Callable[..., Project]
) -> None:
    project = make_differential_project(middleware, django_version=django_version)
    first = int(os.environ.get("DIFFERENTIAL_SEED") or secrets.randbits(31))
    for seed in (first, first + 1):  # an odd and an even one: see differential/run.py
        with ThreadPoolExecutor(2) as executor:
            core, stock = executor.map(lambda module: run(project, module, seed), ["wiki.asgi", "wiki.stock"])  # noqa: B023
        signed_in = [answer for answer in core if "sessionid" in answer.get("request", {}).get("cookies", [])]
        assert len(signed_in) > REQUESTS / RUNS / 10
        pairs = enumerate(zip(core, stock, strict=True))
        differences = [describe(number, *pair) for number, pair in pairs if pair[0] != pair[1]]
        shown = "\n".join(differences[:3])
        assert not differences, f"{len(differences)} differences with DIFFERENTIAL_SEED={seed}:\n{shown}"


def run(project: Project, module: str, seed: int) -> list[dict[str, Any]]:
    """Return this application's responses; it gets its own copy of the database."""
    database = project.path / f"{module}-{seed}.sqlite3"
    shutil.copy(project.path / "db.sqlite3", database)
    script = [str(project.python), "-W", "ignore", "-m", "differential.run", module, str(seed), str(REQUESTS // RUNS)]
    # The order of django-csp's directives depends on the hash seed.
    output = project.run("env", f"DATABASE_URL=sqlite:///{database}", "PYTHONHASHSEED=0", *script, timeout=1200).stdout
    return [json.loads(line) for line in output.splitlines()]


def describe(number: int, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    if "answer" not in ours:
        return f"Left in the database: {ours}, with Django's handler: {theirs}"
    different = [name for name in ours["answer"] if ours["answer"][name] != theirs["answer"][name]]
    lines = [f"{name}:\n  core:   {ours['answer'][name]}\n  Django: {theirs['answer'][name]}" for name in different]
    return f"Request {number}: {ours['request']}\n" + "\n".join(lines)
