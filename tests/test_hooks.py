"""The hooks treat answers as data, reject those that cannot work, and leave no files behind."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from answer_checks import slug_error
from tests.template import ROOT, MakeEnvironment, MakeProject, also_in_test_all, first_match, generate

HOSTILE_NAMES = [
    'It\'s "quoted" \'thrice\' """',
    "<script>alert(1)</script> &amp;",
    "'''",
    "back\\slash \\",
    "{braces}",
    "100 % of $HOME `id` $(id)",
    "two\nlines and a tab\t",
    "Käse 🧀 بيتزا \u202eright-to-left\u202c",
    "x" * 500,
    'A "long" name ' * 8,
]


def cookiecutter(folder: Path, *answers: str, options: Sequence[str] = (), path: str = "") -> tuple[int, list[str]]:
    """Return the exit status and the lines of output and errors."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", *options, "--output-dir", str(folder), str(ROOT)]
    command += answers
    environment = os.environ | {"PATH": path}
    result = subprocess.run(
        command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return result.returncode, [line.strip() for line in result.stdout.strip().splitlines()]


@pytest.mark.parametrize(
    ("slug", "reason", "proposal"),
    [
        ("My_Site", "lowercase letter", "my_site"),
        ("my-site", "lowercase letter", "my_site"),
        ("3d", "lowercase letter", "site_3d"),
        ("site_", "lowercase letter", "site_site"),
        ("größe", "lowercase letter", "grosse"),
        ("x" * 31, "longer than 30 characters", "x" * 30),
        ("con", "Windows reserves this name", "con_site"),
        ("lpt1", "Windows reserves this name", "lpt1_site"),
        ("class", "a Python keyword", "class_site"),
        ("match", "a Python keyword", "match_site"),
        ("email", "standard library", "email_site"),
        ("test", "a module of the project", "test_site"),
        ("channels", "a module of the project", "channels_site"),
        ("../up", "lowercase letter", "up"),
    ],
)
def test_rejected_slugs(slug: str, reason: str, proposal: str, tmp_path: Path) -> None:
    """In one sentence, which names one that can be used."""
    status, lines = cookiecutter(tmp_path, f"project_slug={slug}")
    assert status == 1
    [line] = lines
    assert line.startswith(f"project_slug {slug!r} cannot be used: ")
    assert reason in line
    assert line.endswith(f"; try {proposal}.")
    assert slug_error(proposal) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "asked", "sentence"),
    [
        ("Test\n\n", 8, ""),
        ("Class\nclass\n", 2, "project_slug 'class' cannot be used: it is a Python keyword; try class_site."),
        (" \n", 1, "project_name '' cannot be used: it is blank."),
    ],
)
def test_prompts(typed: str, asked: int, sentence: str, tmp_path: Path) -> None:
    """The proposed slug can be used, and what cannot be is refused before the next question."""
    result = subprocess.run(
        [sys.executable, "-m", "cookiecutter", "--output-dir", str(tmp_path), str(ROOT)],
        check=False,
        input=typed + "\n" * 8,
        env=os.environ | {"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert re.findall(r"\[(\d)/8\]", result.stdout) == [str(number + 1) for number in range(asked)], result.stdout
    assert result.stderr.strip() == sentence
    assert [path.name for path in tmp_path.iterdir()] == ([] if sentence else ["test_site"])
    if not sentence:
        assert "(test_site)" in result.stdout
        assert "Django Channels for WebSockets? (chat and game always include it)" in result.stdout


@pytest.mark.parametrize("django_version", ["5.2", "6.1"])
def test_no_installed_module_can_be_shadowed(django_version: str, environments: MakeEnvironment) -> None:
    """RESERVED_NAMES has every top-level module that is installed for any combination of answers."""
    script = (
        "import importlib.metadata as m; print('\\n'.join(m.packages_distributions()));"
        "import sys; print('\\n'.join(sys.stdlib_module_names))"
    )
    python = environments(django_version)
    names = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in names if re.fullmatch("[a-z][a-z0-9_]*", name) and not slug_error(name)] == []


def test_generation_without_uv(tmp_path: Path) -> None:
    status, lines = cookiecutter(tmp_path, "project_name=wiki")
    assert status == 0
    assert lines[0].startswith("uv is not installed")
    assert not (tmp_path / "wiki" / "uv.lock").exists()


def test_generation_without_network(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    uv = bin_folder / "uv"
    uv.write_text("#!/bin/sh\nprintf 'warning: x\\nerror: no route to host\\n' >&2; exit 2\n")
    uv.chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    status, lines = cookiecutter(tmp_path, "project_name=wiki", path=path)
    assert status == 0
    assert lines[0] == "uv could not lock the dependencies; run `uv lock` later. error: no route to host"


def test_the_secret_key_is_fresh_and_private(tmp_path: Path) -> None:
    keys = set()
    for number in range(2):
        env = generate(tmp_path / str(number), project_name="wiki").path / ".env"
        keys.add(first_match("^DJANGO_SECRET_KEY=(.{50,})$", env.read_text()))
        if os.name == "posix":
            assert env.stat().st_mode & 0o077 == 0
    assert len(keys) == 2


def test_next_steps_are_printed(tmp_path: Path) -> None:
    _, lines = cookiecutter(tmp_path, "project_name=wiki")
    assert lines[-3:] == [
        "cd wiki",
        "uv run manage.py migrate",
        "uv run uvicorn wiki.asgi:application --reload --timeout-graceful-shutdown 1",
    ]


def test_the_title_of_the_readme_is_the_name(tmp_path: Path) -> None:
    for number, (name, title) in enumerate(
        [("My *site*", r"My \*site\*"), ("a\n# [b](c) <d>", r"a \# \[b\](c) \<d\>")]
    ):
        readme = generate(tmp_path / str(number), project_name=name, project_slug="wiki").path / "README.md"
        assert readme.read_text().startswith(f"# {title}\n")


def test_next_steps_name_the_database(tmp_path: Path) -> None:
    _, lines = cookiecutter(tmp_path, "project_name=wiki", "database=postgresql")
    [line] = [line for line in lines if "docker compose up --detach postgres" in line]
    assert "DATABASE_URL in .env" in line


@pytest.mark.parametrize(
    ("name", "comment"),
    [("wiki", ""), ("x" * 78, ""), ("x" * 79, "  # fmt: skip"), ("é" * 38, ""), ("é" * 39, "  # fmt: skip")],
)
def test_only_a_long_name_is_kept_from_the_formatter(name: str, comment: str, tmp_path: Path) -> None:
    settings = generate(tmp_path, project_name=name, project_slug="wiki").path / "wiki" / "settings.py"
    assert f'\nSITE_NAME = "{name}"{comment}\n' in settings.read_text()


@pytest.mark.parametrize("name", [*HOSTILE_NAMES[:2], *also_in_test_all(*HOSTILE_NAMES[2:])])
def test_hostile_names(name: str, make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project(project_name=name, project_slug="wiki", database="sqlite")
    lint = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        project.run(*lint, *command, "--no-cache", ".")
    show = "from django.conf import settings; print(ascii(settings.SITE_NAME))"
    assert project.manage("shell", "--no-imports", "--command", show).stdout.strip() == ascii(name)
    project.run(str(project.python), "-m", "pytest", "-q")
