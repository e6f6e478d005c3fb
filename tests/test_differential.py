"""The core answers as Django's own handler does: random requests to the same project with both, and all answers compared."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.template import ROOT, Project, also_in_test_all

REQUESTS = int(os.environ.get("DIFFERENTIAL_REQUESTS", "2000"))
RUNS = 4  # of so many requests in all, for each Django: with and without middleware of the project's, signals watched or not

SETTINGS = """
INSTALLED_APPS.append("differential")
ALLOWED_HOSTS = ["example.com"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
LANGUAGES = [("en", "English"), ("de", "German")]
LOGGING["handlers"]["console"] = LOGGING["handlers"]["null"]
"""
# Outside of Django's own and inside of it, as projects have it.
MORE_MIDDLEWARE = """
MIDDLEWARE[2:2] = ["differential.middleware.MixinMiddleware", "django.middleware.http.ConditionalGetMiddleware"]
MIDDLEWARE += ["django.middleware.locale.LocaleMiddleware", "differential.middleware.ShortCutMiddleware"]
"""


@pytest.fixture
def differing(make_project: Callable[..., Project], static_files: Callable[[Project], Path]) -> Callable[..., Project]:
    """`differing(settings, **answers)`: a project with the app, and `wiki/stock.py`, its asgi.py with Django's handler."""

    def make(settings: str, **answers: str) -> Project:
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
def test_the_core_answers_as_django_does(
    django_version: str, middleware: str, differing: Callable[..., Project]
) -> None:
    project = differing(middleware, django_version=django_version)
    first = int(os.environ.get("DIFFERENTIAL_SEED") or secrets.randbits(31))
    for seed in (first, first + 1):  # an odd one and an even one: see differential/run.py
        with ThreadPoolExecutor(2) as executor:
            core, stock = executor.map(lambda module: run(project, module, seed), ["wiki.asgi", "wiki.stock"])  # noqa: B023
        pairs = enumerate(zip(core, stock, strict=True))
        differences = [describe(number, *pair) for number, pair in pairs if pair[0] != pair[1]]
        shown = "\n".join(differences[:3])
        assert not differences, f"{len(differences)} differences with DIFFERENTIAL_SEED={seed}:\n{shown}"


def run(project: Project, module: str, seed: int) -> list[dict]:
    """What this application answers, with a copy of the database for itself."""
    database = project.path / f"{module}-{seed}.sqlite3"
    shutil.copy(project.path / "db.sqlite3", database)
    script = [str(project.python), "-W", "ignore", "-m", "differential.run", module, str(seed), str(REQUESTS // RUNS)]
    # The order of what django-csp writes depends on the seed of hashes.
    output = project.run("env", f"DATABASE_URL=sqlite:///{database}", "PYTHONHASHSEED=0", *script, timeout=1200).stdout
    return [json.loads(line) for line in output.splitlines()]


def describe(number: int, ours: dict, theirs: dict) -> str:
    if "answer" not in ours:
        return f"Left in the database: {ours}, with Django's handler: {theirs}"
    different = [name for name in ours["answer"] if ours["answer"][name] != theirs["answer"][name]]
    lines = [f"{name}:\n  core:   {ours['answer'][name]}\n  Django: {theirs['answer'][name]}" for name in different]
    return f"Request {number}: {ours['request']}\n" + "\n".join(lines)
