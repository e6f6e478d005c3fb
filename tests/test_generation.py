"""Each pair of answers, and in `make test-all` every combination, gives a complete, lint-clean project."""

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.template import (
    CHOICES,
    IMAGE_PYTHON,
    OLDEST_PYTHON,
    QUESTIONS,
    ROOT,
    Answers,
    combinations,
    first_match,
    generate,
    label,
    pairwise,
    supported_pythons,
)

EXAMPLE = ROOT / "example" / "my_site"
QUESTION_KEYS = ("starter", "server", "database", "channels", "django_version", "ci")

# Text that shows that a dependency is used, where that is not its own name.
USAGE_PATTERNS = {
    "asgiref": "from asgiref",
    "django": "from django",
    "django-axes": "axes.middleware",
    "django-csp": "from csp import",
    "django-ninja": "from ninja import",
    "django-stubs": "uv run mypy",
    "django-tasks": "from django_tasks import",
    "django-tasks-db": "django_tasks_db.DatabaseBackend",
    "dj-database-url": "import dj_database_url",
    "dj-email-url": "import dj_email_url",
    "environs": "import environs",
    "markdown-it-py": "from markdown_it import",
    "python-dotenv": "from dotenv import",
    "python-json-logger": "pythonjsonlogger",
    "channels-redis": "channels_redis.",
    "psycopg": "postgres://",
    "uvicorn-worker": "uvicorn_worker",
    "pytest-asyncio": "asyncio_mode",
    "pytest-django": "DJANGO_SETTINGS_MODULE",
}


def test_each_pair_of_answers(tmp_path: Path) -> None:
    chosen = pairwise(*QUESTION_KEYS)
    assert pairs_of(chosen) == pairs_of(combinations(*QUESTION_KEYS))
    check_projects(chosen, tmp_path)


def pairs_of(combinations: list[Answers]) -> set[object]:
    return {pair for answers in combinations for pair in itertools.combinations(answers.items(), 2)}


@pytest.mark.exhaustive
@pytest.mark.parametrize("group", combinations("starter", "server"), ids=label)
def test_every_combination(group: Answers, tmp_path: Path) -> None:
    chosen = [answers for answers in combinations(*QUESTION_KEYS) if answers.items() >= group.items()]
    assert len(chosen) == 24
    check_projects(chosen, tmp_path)


def check_projects(chosen: list[Answers], folder: Path) -> None:
    for number, answers in enumerate(chosen):
        project = generate(folder / str(number), **answers)
        check_project(project.path, answers)
    for command in (["check"], ["format", "--check"]):
        lint = [sys.executable, "-m", "ruff", *command, "--no-cache", str(folder)]
        result = subprocess.run(lint, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def check_project(path: Path, answers: Answers) -> None:
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
            assert not re.search(r"{{|{%|%}", text), f"{name} has unrendered template syntax"
        assert not re.search(r"cookiecutter|@[A-Z_]+@", text), f"{name} has unrendered template syntax"

    procfile = re.fullmatch(
        r"release: .+\nweb: (python -m wiki\.settings && exec \S.+)\n(worker: .+\nchecker: .+\n)?", texts["Procfile"]
    )
    assert procfile, texts["Procfile"]
    assert bool(procfile[2]) == (answers["starter"] == "live")
    web = procfile[1]
    command = web.partition(" exec ")[2]
    assert command.split()[0] == answers["server"]
    assert f'"{web}"' in texts["Dockerfile"]
    assert command in texts["README.md"]

    for name in re.findall(r"`([\w./]+[./]\w*)`", texts["AGENTS.md"]):
        assert (path / name).exists(), f"AGENTS.md names {name}"

    check_python(texts, answers)
    check_dependencies(tomllib.loads(texts["pyproject.toml"]), texts)
    assert (".github/workflows/ci.yml" in files) == (answers["ci"] == "github")
    assert (".gitlab-ci.yml" in files) == (answers["ci"] == "gitlab")
    assert {"ABOUT.md", "pipelines", "servers", "starters"} & {name.partition("/")[0] for name in files} == set()
    check_leftovers(texts, answers)


def check_python(texts: dict[str, str], answers: Answers) -> None:
    """Images, dev container, pipelines and uv take the same Python, and the project says which is the oldest."""
    assert texts[".python-version"] == f"{IMAGE_PYTHON}\n"
    assert re.findall(r"^FROM (python\S+)", texts["Dockerfile"], re.MULTILINE) == 2 * [f"python:{IMAGE_PYTHON}-slim"]
    # Dependabot, and the command that pins images to digests, read the FROM lines alone.
    assert not re.search(r"--from=\S*:", texts["Dockerfile"])
    assert json.loads(texts[".devcontainer/devcontainer.json"])["image"].endswith(f"/python:{IMAGE_PYTHON}")
    if answers["ci"] == "gitlab":
        image = yaml.safe_load(texts[".gitlab-ci.yml"])[".python"]["image"]
        assert f"-python{IMAGE_PYTHON}-" in image
    else:  # setup-uv in GitHub's takes that of .python-version
        assert "python-version" not in texts.get(".github/workflows/ci.yml", "")
    oldest = OLDEST_PYTHON[answers["django_version"]]
    assert tomllib.loads(texts["pyproject.toml"])["project"]["requires-python"] == f">={oldest}"


def test_prompts_name_the_oldest_python() -> None:
    prompts = QUESTIONS["__prompts__"]["django_version"]
    assert set(OLDEST_PYTHON) == set(CHOICES["django_version"])
    for version, oldest in OLDEST_PYTHON.items():
        assert f"Python {oldest} or later" in prompts[version]


def check_dependencies(pyproject: dict[str, Any], texts: dict[str, str]) -> None:
    """Each dependency is used somewhere, the chosen Django among them."""
    elsewhere = "\n".join(text for name, text in texts.items() if not name.startswith("uv.lock"))
    requirements = pyproject["project"]["dependencies"] + pyproject["dependency-groups"]["dev"]
    for requirement in requirements:
        name = first_match(r"^([\w-]+)", requirement)
        pattern = USAGE_PATTERNS.get(name, name)
        assert elsewhere.count(pattern) > pyproject_mentions(texts, pattern) or name.startswith("pytest"), requirement
        assert re.search(r">=[\d.]+,<[\d.]+$", requirement), f"{requirement} has no range"


def pyproject_mentions(texts: dict[str, str], pattern: str) -> int:
    return texts["pyproject.toml"].count(pattern)


def check_leftovers(texts: dict[str, str], answers: Answers) -> None:
    """Nothing of the answers that were not given."""
    everything = "\n".join(texts.values()).lower().replace("django.channels.server", "")  # daphne's logger
    channels = answers["channels"] or answers["starter"] in ("chat", "game")
    absent = {
        "channels": not channels,
        "redis": not channels,
        "psycopg": answers["database"] == "sqlite",
        "sqlite": answers["database"] == "postgresql",
        "hypercorn": answers["server"] != "hypercorn",
        "gunicorn": answers["server"] != "gunicorn",
        "granian": answers["server"] != "granian",
        "uvicorn": answers["server"] not in ("uvicorn", "gunicorn"),
        "encyclopedia": answers["starter"] != "wiki",
        "openai": answers["starter"] != "assistant",
        "/chat/": answers["starter"] != "chat",
        "/tables/": answers["starter"] != "game",
        "four in a row": answers["starter"] != "game",
        "httpx": answers["starter"] not in ("live", "api", "assistant"),
        "notifications/": answers["starter"] != "notifications",
        "worker:": answers["starter"] != "live",
        "django_tasks": answers["starter"] != "live",
        "ninja": answers["starter"] != "api",
        "schemathesis": answers["starter"] != "api",
    }
    assert [word for word, gone in absent.items() if gone and word in everything] == []


def test_size(tmp_path: Path) -> None:
    project = generate(tmp_path, lock=True, project_name="wiki")
    names = [file.relative_to(project.path).as_posix() for file in project.path.rglob("*") if file.is_file()]
    assert len([name for name in names if not name.startswith(".")]) <= 67  # the others are for tools
    settings = Path(project.path, "wiki", "settings.py").read_text()
    assert settings.count("\n") <= 245


def test_example(tmp_path: Path) -> None:
    """It is what the template generates now, but for the secrets and the lock file, which is another each week."""
    project = generate(tmp_path, project_name="My Site")
    (project.path / ".env").unlink()
    generated, example = (
        {name: path.read_text() for name, path in list_files(folder)} for folder in (project.path, EXAMPLE)
    )
    assert example == generated, "run `make example`, and look at the difference"


def list_files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_template_is_tested_on_each_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == sorted(supported_pythons())
    assert {each["python"] for each in matrix["include"]} == {IMAGE_PYTHON}
