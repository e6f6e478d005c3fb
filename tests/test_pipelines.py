"""The pipelines of generated projects are valid and have no known weaknesses, and their commands work."""

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import yaml

from tests.template import (
    ROOT,
    Answers,
    Docker,
    MakeProject,
    Project,
    also_in_test_all,
    code_blocks,
    combinations,
    edit,
    generate,
    label,
)

TOOLS = Path(sys.executable).parent
EVERYTHING: Answers = {"project_name": "My Board", "server": "granian", "database": "postgresql", "starter": "chat"}


Job = tuple[dict[str, str], list[str]]  # its variables and its commands


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(name, path=str(TOOLS)) or name
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("answers", combinations("ci", "database", "channels"), ids=label)
def test_files_are_valid(answers: Answers, tmp_path: Path) -> None:
    project = generate(tmp_path, **answers)
    github, gitlab = code_blocks("updating.md", "yaml")
    if answers["ci"] == "github":
        (project.path / ".github" / "workflows" / "update.yml").write_text(github)
    elif answers["ci"] == "gitlab":
        with (project.path / ".gitlab-ci.yml").open("a") as pipeline:
            pipeline.write(f"\n{gitlab}")
    schemas = {
        "compose.yaml": "compose-spec",
        ".github/workflows/ci.yml": "github-workflows",
        ".github/workflows/update.yml": "github-workflows",
        ".github/dependabot.yml": "dependabot",
        ".gitlab-ci.yml": "gitlab-ci",
        "renovate.json": "renovate",
    }
    present = {path: schema for path, schema in schemas.items() if (project.path / path).exists()}
    assert len(present) == {"none": 1, "github": 4, "gitlab": 3}[answers["ci"]]
    for path, schema in present.items():
        result = tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", project.path / path)
        assert result.returncode == 0, result.stdout


def test_issue_forms_are_valid() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        schema = "github-issue-config" if path.stem == "config" else "github-issue-forms"
        result = tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("folder", ["template", "project"])
def test_workflows_have_no_known_weakness(folder: str, tmp_path: Path) -> None:
    path = ROOT if folder == "template" else generate(tmp_path, **EVERYTHING).path
    if folder == "project":
        (path / ".github" / "workflows" / "update.yml").write_text(code_blocks("updating.md", "yaml")[0])
    result = tool("zizmor", "--offline", "--no-progress", "--persona", "auditor", path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No findings to report" in result.stdout + result.stderr
    for uses, comment in re.findall(
        r"uses: (\S+)(.*)", "".join(file.read_text() for file in path.glob(".github/*/*.yml"))
    ):
        assert re.search("@[0-9a-f]{40}$", uses), uses
        assert re.match(r" # v[\d.]+$", comment), uses


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
@pytest.mark.parametrize(
    ("ci", "answers"),
    [("github", EVERYTHING), ("gitlab", {"project_name": "wiki"})],
    ids=["everything-github", "defaults-gitlab"],
)
def test_every_command_works(ci: str, answers: Answers, tmp_path: Path, docker: Docker) -> None:
    """With PostgreSQL and Redis where the pipeline itself starts them."""
    answers = {**answers, "ci": ci}
    project = generate(tmp_path, lock=True, **answers)
    (project.path / ".env").unlink()  # as it is in a clone
    named = re.findall(r"^    (uv run .+)", (project.path / "AGENTS.md").read_text(), re.MULTILINE)
    run_all(["git init --quiet"], project.path, {})
    jobs = github_jobs(project.path) if ci == "github" else gitlab_jobs(project.path)
    if "--wait" not in docker("compose", "up", "--help"):  # version 1; what follows takes longer than they need
        jobs = [(env, [command.replace("up --wait", "up --detach") for command in commands]) for env, commands in jobs]
    run = [command for _, commands in jobs for command in commands]
    assert [command for command in named if not any(each.startswith(command) for each in run)] == []
    assert len(named) == 5
    assert [len(commands) for _, commands in jobs] == ([8, 1] if ci == "github" else [5, 5, 1])
    try:
        output = "".join(run_all(commands, project.path, variables) for variables, commands in jobs)
    finally:
        if ci == "github":
            docker("compose", "down", "--volumes", cwd=project.path)
    pattern = r"^TOTAL.+ ([\d.]+%)$"  # in GitLab the pipeline itself names it
    if ci == "gitlab":
        pattern = yaml.safe_load((project.path / ".gitlab-ci.yml").read_text())["test"]["coverage"].strip("/")
    [coverage] = re.findall(pattern, output, re.MULTILINE)
    assert 60 < float(coverage.rstrip("%")) < 100


def github_jobs(path: Path) -> list[Job]:
    workflow = yaml.safe_load((path / ".github" / "workflows" / "ci.yml").read_text())
    return [
        (job.get("env", {}), [step["run"] for step in job["steps"] if "run" in step])
        for job in workflow["jobs"].values()
    ]


def gitlab_jobs(path: Path) -> list[Job]:
    pipeline = yaml.safe_load((path / ".gitlab-ci.yml").read_text())
    jobs = [pipeline.get(job.get("extends"), {}) | job for job in pipeline.values() if "script" in job]
    return [(job.get("variables", {}), job["script"]) for job in jobs]


def run_all(commands: list[str], path: Path, variables: dict[str, str]) -> str:
    """Run the commands as a pipeline does, and return what they print to stdout."""
    output = ""
    inherited = {key: os.environ[key] for key in os.environ if re.match("(UV|PIP|SSL|DOCKER)_|HOME$|TMPDIR$", key)}
    environment = inherited | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"} | variables
    tag = f"pipeline-{uuid.uuid4().hex[:8]}"
    for command in commands:
        command = command.replace(f"--tag {path.name}", f"--tag {tag}")
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        output += result.stdout
        if "docker build" in command:
            subprocess.run(["docker", "image", "rm", "--force", tag], check=True, capture_output=True)
    return output


# Works, but ruff, its formatter and mypy report it.
FIRST_PUSH = """
import random, os
from django.utils.safestring import mark_safe

visited = []

def lucky( request ):
    visited.append( random.choice(['a', 'b']) )
    return render(request, 'base.html', {'content' : mark_safe('hello')})
"""


# What a tutorial's reader writes in the first week, into the files that `startapp` has made.
FIRST_WEEK = {
    "models.py": """from django.conf import settings
from django.db import models


class Guess(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    number = models.IntegerField(default=0)
    note = models.CharField(max_length=64, blank=True, null=True)
""",
    "views.py": """import random

from django import forms
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.utils.safestring import mark_safe

from .models import Guess


class GuessForm(forms.ModelForm):
    class Meta:
        model = Guess
        fields = "__all__"


def lucky(request):
    number = random.choice([1, 2, 3])
    return render(request, "base.html", {"text": mark_safe("<b>lucky</b>"), "number": number})


def detail(request, guess_id):
    try:
        guess = Guess.objects.get(pk=guess_id)
    except Guess.DoesNotExist:
        raise Http404("There is no such guess.")
    if guess.number == 7:
        word = "right"
    else:
        word = "wrong"
    return HttpResponse("That is %s, {}.".format(guess.user) % word)
""",
    "tests.py": """from django.contrib.auth import get_user_model
from django.test import TestCase

from .models import Guess


class GuessTests(TestCase):
    def setUp(self):
        user = get_user_model().objects.create_user(username="ada", password="analytical")
        self.guess = Guess.objects.create(user=user, number=7)

    def test_number(self):
        self.assertEqual(self.guess.number, 7)
""",
}


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
@pytest.mark.parametrize(("ci", "django_version"), [("github", "5.2"), *also_in_test_all(("gitlab", "6.1"))])
def test_the_first_week_passes(ci: str, django_version: str, make_project: MakeProject) -> None:
    """What `startapp` makes, and then what a tutorial puts there, fails no command of the pipeline."""
    project = make_project(ci=ci, django_version=django_version)
    commands, _ = split_commands(project.path, ci)
    project.manage("startapp", "guesses")
    edit(project.path / "wiki" / "settings.py", '    "pages",\n', '    "pages",\n    "guesses",\n')
    assert [command for command in commands if re.search("ruff|mypy", command) and fails(project, command)] == []
    for name, text in FIRST_WEEK.items():
        (project.path / "guesses" / name).write_text(text)
    project.manage("makemigrations")
    assert [command for command in commands if fails(project, command)] == []
    (project.path / "guesses" / "urls.py").write_text("import os\n")
    [lint] = [command for command in commands if "ruff check" in command]
    assert fails(project, lint)


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
@pytest.mark.parametrize(
    ("ci", "starter"),
    [("github", "wiki"), *also_in_test_all(("github", "blank"), ("gitlab", "blank"), ("gitlab", "wiki"))],
)
def test_style_fails_no_first_push(ci: str, starter: str, make_project: MakeProject) -> None:
    """In a course project it is a warning, and all else passes; in any other project it is an error."""
    project = make_project(ci=ci, starter=starter)
    views = project.path / ("encyclopedia" if starter == "wiki" else "pages") / "views.py"
    views.write_text(views.read_text() + FIRST_PUSH)
    required, optional = split_commands(project.path, ci)
    style = [command for command in required + optional if re.search("ruff|mypy", command)]
    assert len(style) == 3
    assert [command for command in style if fails(project, command)] == style
    if starter == "wiki":
        assert optional == style
        assert [command for command in required if fails(project, command)] == []
    else:
        assert optional == []


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
@pytest.mark.parametrize(
    ("ci", "starter", "server"), [("github", "chat", "granian"), *also_in_test_all(("gitlab", "blank", "uvicorn"))]
)
def test_types_in_the_pipeline(ci: str, starter: str, server: str, make_project: MakeProject) -> None:
    """Its command fails for a wrong type or a missing annotation in the project's own modules, and in no other app for the latter."""
    project = make_project(ci=ci, starter=starter, server=server, channels=True)
    required, _ = split_commands(project.path, ci)
    [command] = [command for command in required if "mypy" in command]
    course = project.path / "auctions"
    course.mkdir()
    (course / "__init__.py").write_text("")
    (course / "views.py").write_text(COURSE_VIEWS)
    assert not fails(project, command)
    app = "chat" if starter == "chat" else "pages"
    for path, wrong in (
        ("wiki/serving/limits.py", "\n\nBodyLimitMiddleware(send_413, limit='100 MB')\n"),
        (
            "accounts/views.py",
            "\n\ndef network(request: HttpRequest) -> int:\n    return get_client_network(request)\n",
        ),
        ("wiki/settings.py", "\n\ndef unannotated(value):\n    return value\n"),
        (f"{app}/views.py", "\n\ndef unannotated(request):\n    return render(request, 'base.html')\n"),
        (f"{app}/tests.py", "\n\nclient: int = 'no number'\n"),
    ):
        text = (project.path / path).read_text()
        (project.path / path).write_text(text + wrong)
        assert fails(project, command), path
        (project.path / path).write_text(text)


# Without annotations, with a library that has no types, and with a class of Django's that is generic for mypy alone.
COURSE_VIEWS = """
import markdown2
from django.shortcuts import render
from django.views.generic import ListView

class Comments(ListView):
    template_name = "comments.html"

def shout(text, times: int):
    return markdown2.markdown(text.upper() * times)

GREETING = shout("hello", 2)

def index(request):
    if request.user.listings.count():
        return render(request, "index.html", {"greeting": GREETING})
"""


@pytest.mark.skipif(os.name == "nt", reason="the pipelines run on Linux")
def test_code_of_a_course_is_left_out(make_project: MakeProject) -> None:
    """With the lines of docs/how-to/course-projects.md, neither ruff nor mypy looks at it."""
    project = make_project(project_name="project4")
    (project.path / "network").mkdir()
    (project.path / "network" / "__init__.py").write_text("")
    (project.path / "network" / "views.py").write_text(FIRST_PUSH)
    style = ["uv run ruff check", "uv run ruff format --check", "uv run mypy"]
    assert [command for command in style if fails(project, command)] == style
    [lines] = code_blocks("course-projects.md", "toml")
    for table, line in re.findall(r"^(\[.+\]\n)(.+\n)", lines, re.MULTILINE):
        edit(project.path / "pyproject.toml", f"\n{table}", f"\n{table}{line}")
    assert [command for command in style if fails(project, command)] == []


def split_commands(path: Path, ci: str) -> tuple[list[str], list[str]]:
    """The commands of the pipeline that a project's own environment can run: those that have to succeed, and the others."""
    if ci == "github":
        jobs = yaml.safe_load((path / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
        steps = [step for job in jobs for step in job["steps"] if "run" in step]
        commands = [(step["run"], step.get("continue-on-error", False)) for step in steps]
    else:
        jobs = [job for job in yaml.safe_load((path / ".gitlab-ci.yml").read_text()).values() if "script" in job]
        commands = [(command, job.get("allow_failure", False)) for job in jobs for command in job["script"]]
    required = [command for command, may_fail in commands if "uv run " in command and not may_fail]
    optional = [command for command, may_fail in commands if "uv run " in command and may_fail]
    return required, optional


def fails(project: Project, command: str) -> bool:
    command = command.replace("uv run manage.py", "python manage.py").replace("uv run ", "python -m ")
    return project.run("bash", "-c", command, check=False).returncode != 0


@pytest.mark.skipif(os.name == "nt", reason="starts uv from a POSIX shell")
def test_pre_commit_hooks_work_offline(tmp_path: Path) -> None:
    """With the project's own locked tools: no network is asked, and what is wrong is found."""
    project = generate(tmp_path, lock=True, project_name="wiki")
    readme = (project.path / "README.md").read_text()
    assert re.findall("^    (git init|uvx pre-commit install) ", readme, re.MULTILINE) == [
        "git init",
        "uvx pre-commit install",
    ]
    run_all(["uv sync --locked", "git init", "pre-commit install", "git add ."], project.path, {})
    assert (project.path / ".git" / "hooks" / "pre-commit").exists()
    environment = os.environ | {
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "UV_OFFLINE": "1",
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
    }
    command = [shutil.which("pre-commit", path=str(TOOLS)) or "pre-commit", "run", "--all-files"]
    result = subprocess.run(command, cwd=project.path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("Passed") == 4
    with (project.path / "pages" / "urls.py").open("a") as file:
        file.write("import os\n")
    result = subprocess.run(command, cwd=project.path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.search(r"ruff check\.+Failed", result.stdout)
