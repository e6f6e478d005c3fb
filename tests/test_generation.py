"""Every combination of answers generates, and what it generates is whole and clean."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.template import combinations, generate, label

COMBINATIONS = combinations("starter", "server", "database", "channels", "django_version", "ci")
# One test for a starter on a server: each writes 24 projects and lints them in one go.
GROUPS = combinations("starter", "server")

# What shows that a dependency is used, where that is not an import of its name.
TRACES = {
    "asgiref": "from asgiref",
    "django": "from django",
    "django-axes": "axes.middleware",
    "django-csp": "from csp import",
    "django-stubs": "uv run mypy",
    "django-tasks": "from django_tasks import",
    "django-tasks-db": "django_tasks_db.DatabaseBackend",
    "django-environ": "import environ",
    "python-json-logger": "pythonjsonlogger",
    "channels-redis": "channels_redis.",
    "psycopg": "postgres://",
    "uvicorn-worker": "uvicorn_worker",
    "pytest-asyncio": "asyncio_mode",
    "pytest-django": "DJANGO_SETTINGS_MODULE",
}


@pytest.mark.parametrize("group", GROUPS, ids=label)
def test_every_combination(group, tmp_path):
    chosen = [answers for answers in COMBINATIONS if answers.items() >= group.items()]
    assert len(chosen) == 24
    for number, answers in enumerate(chosen):
        project = generate(tmp_path / str(number), project_name="wiki", **answers)
        check_project(project.path, answers)
    for command in (["check"], ["format", "--check"]):
        lint = [sys.executable, "-m", "ruff", *command, "--no-cache", str(tmp_path)]
        result = subprocess.run(lint, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def check_project(path, answers):
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}

    for name, text in texts.items():
        if name.endswith(".py"):
            ast.parse(text, name)
        elif name.endswith(".toml"):
            tomllib.loads(text)
        elif name.endswith((".yaml", ".yml")):
            assert yaml.safe_load(text), name
        assert text.strip() or name.endswith("__init__.py"), f"{name} is empty"
        if not name.endswith((".html", ".yml", ".css", ".js")):
            assert not re.search(r"{{|{%|%}", text), f"{name} holds something unrendered"
        assert not re.search(r"cookiecutter|@[A-Z_]+@", text), f"{name} holds something unrendered"

    procfile = re.fullmatch(
        r"release: .+\nweb: (python -m wiki\.settings && exec \S.+)\n(worker: .+\nchecker: .+\n)?", texts["Procfile"]
    )
    assert bool(procfile[2]) == (answers["starter"] == "live")
    web = procfile[1]
    command = web.partition(" exec ")[2]
    assert command.split()[0] == answers["server"]
    assert f'"{web}"' in texts["Dockerfile"]
    assert command in texts["README.md"]

    check_dependencies(tomllib.loads(texts["pyproject.toml"]), texts)
    assert (".github/workflows/ci.yml" in files) == (answers["ci"] == "github")
    assert (".gitlab-ci.yml" in files) == (answers["ci"] == "gitlab")
    check_leftovers(texts, answers)


def check_dependencies(pyproject, texts):
    """Each dependency is used somewhere, the chosen Django among them."""
    elsewhere = "\n".join(text for name, text in texts.items() if not name.startswith("uv.lock"))
    requirements = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    for requirement in requirements:
        name = re.match(r"[\w-]+", requirement)[0]
        trace = TRACES.get(name, name)
        assert elsewhere.count(trace) > pyproject_mentions(texts, trace) or name.startswith("pytest"), requirement
        assert re.search(r">=[\d.]+,<[\d.]+$", requirement), f"{requirement} has no range"


def pyproject_mentions(texts, trace):
    return texts["pyproject.toml"].count(trace)


def check_leftovers(texts, answers):
    """Nothing of the answers that were not given."""
    everything = "\n".join(texts.values()).lower()
    channels = answers["channels"] or answers["starter"] == "chat"
    absent = {
        "channels": not channels,
        "redis": not channels,
        "psycopg": answers["database"] == "sqlite",
        "sqlite": answers["database"] == "postgresql",
        "hypercorn": answers["server"] != "hypercorn",
        "gunicorn": answers["server"] != "gunicorn",
        "granian": answers["server"] != "granian",
        "uvicorn": answers["server"] not in ("uvicorn", "gunicorn"),
        "daphne": answers["server"] != "daphne" and not channels,
        "encyclopedia": answers["starter"] != "wiki",
        "/chat/": answers["starter"] != "chat",
        "httpx": answers["starter"] != "live",
        "worker:": answers["starter"] != "live",
        "django_tasks": answers["starter"] != "live",
    }
    assert [word for word, gone in absent.items() if gone and word in everything] == []


def test_size(tmp_path):
    project = generate(tmp_path, lock=True, project_name="wiki")
    names = [file.relative_to(project.path).as_posix() for file in project.path.rglob("*") if file.is_file()]
    assert len([name for name in names if not name.startswith(".")]) <= 40  # the others are for tools
    settings = Path(project.path, "wiki", "settings.py").read_text()
    assert settings.count("\n") <= 180
