"""Any text as an answer gives either a complete project that shows it unchanged, or a one-line error and no files."""

import ast
import html
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml
from cookiecutter import prompt
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from answer_checks import RESERVED_NAMES, propose_slug, slug_error
from tests.template import CHOICES, IN_CI, ROOT, Answers, MakeEnvironment, also_in_test_all, edit, first_match

pytestmark = pytest.mark.skipif(os.name == "nt", reason="projects are inspected in forked processes")

# Each of these would create a file MARK if it were executed.
ATTACKS = [
    "'); open('MARK', 'w') #",
    '"""; open("MARK", "w"); """',
    "$(touch MARK)",
    "`touch MARK`",
    "; touch MARK;",
    "\n- run: touch MARK\n",
    "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
    "{# comment #}",
    "{% include 'admin/base.html' %}",
    "{% debug %}",
    "${{ github.token }}",
]
FRAGMENTS = [
    *ATTACKS,
    *"'\"`\\{}%$#&<>:;,.-_/|!@\n\r\t\x1b\x7f\u2028\u202e\u200d\ufeff",
    "'''",
    '"""',
    "\\N",
    "\\u0041",
    "%(name)s",
    "%s",
    "$HOME",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "@SITE_NAME@",
    "@TITLE@",
    "<script>alert(1)</script>",
    "</title>",
    "-->",
    "# fmt: off",
    "../..",
    "~",
    "-rf",
    "null",
    "yes",
    "🧀",
    "👩‍🚀",
    "é",
    "بيتزا",
    "東京",
    "x" * 90,
]
ANSWERS = st.fixed_dictionaries({key: st.sampled_from(choices) for key, choices in CHOICES.items()}).flatmap(
    lambda chosen: st.booleans().map(lambda channels: chosen | {"channels": channels})
)
NAMES = st.one_of(
    st.text(max_size=100),
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map("".join),
    st.sampled_from(
        ["x" * 10_000, "é" * 10_000, "   ", "\u3000", ".hidden", "--help", "-", "\0", "a\0b", "\ud800", "Test"]
    ),
)
VALID_SLUGS = st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True)
WRONG_SLUGS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(FRAGMENTS), max_size=4).map("".join),
    st.sampled_from(
        ["", ".", "..", "/", "~", "a" * 31, "a" * 300, "../../up", "/tmp/up", "C:\\up", "con", "import", "json"]
    ),
)
SLUGS = st.integers(1, 10).flatmap(lambda number: VALID_SLUGS if number == 1 else WRONG_SLUGS)


def examples(in_ci: int) -> settings:
    return settings(
        max_examples=in_ci if IN_CI else 15,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # shrinking a failure takes longer than reading it
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


# Each run generates other random answers.
RUNS = [0, *also_in_test_all(*range(1, 8))]
DEFAULTS: Answers = {
    "starter": "blank",
    "server": "uvicorn",
    "database": "sqlite",
    "channels": False,
    "django_version": "5.2",
    "ci": "github",
}


@contextmanager
def prompts_answered(answers: Answers) -> Iterator[None]:
    """Give answers at the prompts; no keyboard could type some of these texts."""
    patched = pytest.MonkeyPatch()
    patched.setenv("PATH", "")  # without uv, which would lock the dependencies
    patched.setattr(prompt, "read_user_variable", lambda key, default, *_: answers.get(key, default))
    patched.setattr(prompt, "read_user_yes_no", lambda key, default, *_: answers.get(key, default))
    patched.setattr(prompt, "read_user_choice", lambda key, *_: answers.get(key))
    try:
        yield
    finally:
        patched.undo()


def generate_or_reject(folder: Path, answers: Answers) -> Path | str:
    """The project's folder, or the message of answer_checks.py or of a hook."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        sys.stdout.flush()
        sys.stderr.flush()
        before = {stream: os.dup(stream) for stream in (1, 2)}
        for stream in before:
            os.dup2(output.fileno(), stream)
        try:
            with prompts_answered(answers):
                return Path(cookiecutter(str(ROOT), output_dir=str(folder)))
        except SystemExit as error:
            return str(error)
        except FailedHookException:
            output.seek(0)
            return output.read()
        finally:
            for stream, copy in before.items():
                os.dup2(copy, stream)
                os.close(copy)


class InspectProject(Protocol):
    def __call__(self, folder: Path, django_version: str) -> Any: ...


@pytest.fixture(scope="module")
def inspect_project(environments: MakeEnvironment) -> Iterator[InspectProject]:
    """`inspect_project(folder, django_version)`: see inspect_projects.py."""
    running: dict[str, subprocess.Popen[str]] = {}

    def inspect_project(folder: Path, django_version: str) -> Any:
        if django_version not in running:
            running[django_version] = subprocess.Popen(
                [environments(django_version), ROOT / "tests" / "inspect_projects.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = running[django_version]
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(str(folder)) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield inspect_project
    for process in running.values():
        process.communicate(timeout=10)


def check_answers(answers: Answers, inspect_project: InspectProject) -> Path | None:
    with tempfile.TemporaryDirectory() as place:
        output = Path(place, "output")
        output.mkdir()
        generated = generate_or_reject(output, answers)
        if isinstance(generated, Path):
            check_project(generated, answers, inspect_project)
        else:
            assert re.match(r"""project_(name|slug) (['"]).*\2 cannot be used: """, generated), generated
            assert generated.count("\n") <= 1
            assert list(output.iterdir()) == []
        assert [path.name for path in Path(place).iterdir()] == ["output"]
        assert list(Path(place).rglob("MARK")) == []
        assert not (ROOT / "MARK").exists()
    return generated if isinstance(generated, Path) else None


def check_project(project: Path, answers: Answers, inspect_project: InspectProject) -> None:
    for file in project.rglob("*"):
        if file.suffix == ".py":
            ast.parse(file.read_bytes())
        elif file.suffix == ".toml":
            tomllib.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".yaml", ".yml"):
            yaml.safe_load(file.read_text(encoding="utf-8"))
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
    for command in (["check"], ["format", "--check"]):
        lint = [sys.executable, "-m", "ruff", *command, "--no-cache", str(project)]
        result = subprocess.run(lint, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout
    seen = inspect_project(project, answers["django_version"])
    assert "no issues" in seen["checks"]
    assert seen["site_name"] == answers["project_name"]
    for page in seen["pages"].values():
        shown = first_match(r'(?s)class="site-name" href="/">(.*?)</a>', page)
        assert html.unescape(shown) == answers["project_name"]
        assert not re.search("[<>\"']", shown)


@pytest.mark.parametrize("run_number", RUNS)
@examples(in_ci=12)
@given(answers=ANSWERS, name=NAMES)
@example(answers=DEFAULTS, name="\r\n")
@example(answers={**DEFAULTS, "channels": True}, name="\ud800")
def test_names(answers: Answers, name: str, run_number: int, inspect_project: InspectProject) -> None:
    check_answers({**answers, "project_name": name}, inspect_project)


@pytest.mark.parametrize("run_number", RUNS)
@examples(in_ci=50)
@given(answers=ANSWERS, slug=SLUGS)
@example(answers={**DEFAULTS, "channels": True}, slug="a" * 30)
def test_slugs(answers: Answers, slug: str, run_number: int, inspect_project: InspectProject) -> None:
    project = check_answers({**answers, "project_name": "A name", "project_slug": slug}, inspect_project)
    if project:
        assert slug == project.name
        assert slug.isidentifier()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Käse & Brot", "kase_brot"),
        ("東京", "dong_jing"),
        ("Ελλάδα", "ellada"),
        ("مدينة", "mdyn"),
        ("3D prints", "site_3d_prints"),
        ("!!!", "my_site"),
        ("🧀", "my_site"),
        ("x" * 100, "x" * 30),
        ("3" * 100, "site_" + "3" * 25),
        ("Test", "test_site"),
        ("Class", "class_site"),
        ("Django", "django_site"),
        ("Chat", "chat_site"),
    ],
)
def test_the_slug_is_made_from_any_name(name: str, slug: str, tmp_path: Path) -> None:
    with prompts_answered({**DEFAULTS, "project_name": name}):
        assert Path(cookiecutter(str(ROOT), output_dir=str(tmp_path))).name == slug


@settings(database=None)
@given(text=NAMES)
def test_any_text_proposes_a_slug_that_can_be_used(text: str) -> None:
    assert slug_error(propose_slug(text)) is None


def test_each_reserved_name_proposes_a_slug_that_can_be_used() -> None:
    names = {*RESERVED_NAMES, *sys.stdlib_module_names, *keyword.kwlist, *keyword.softkwlist}
    assert [name for name in names if slug_error(propose_slug(name))] == []


@pytest.mark.parametrize("attack", ["{{ 7 * 7 }}", "{{ cycler }}", "{# comment #}", "{% set a = 1 %}"])
def test_template_syntax_on_the_command_line(attack: str, tmp_path: Path) -> None:
    """On the command line cookiecutter itself renders answers, so the site would get another name."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", str(tmp_path), str(ROOT)]
    command.append(f"project_name=A{attack}")
    result = subprocess.run(
        command, check=False, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode != 0
    assert re.search(f"cookiecutter rendered ['\"]A{re.escape(attack[:10])}", result.stdout.splitlines()[0])
    assert list(tmp_path.iterdir()) == []


def test_the_checks_can_fail(tmp_path: Path, inspect_project: InspectProject) -> None:
    """The checks above find broken projects."""
    answers: Answers = {**DEFAULTS, "project_name": "A name"}
    project = generate_or_reject(tmp_path, answers)
    assert isinstance(project, Path)
    check_project(project, answers, inspect_project)
    for path, text in (("a_name/settings.py", "import os\n"), ("pyproject.toml", "["), ("compose.yaml", "a: [")):
        broken = tmp_path / "copy" / "a_name"
        shutil.copytree(project, broken)
        with (broken / path).open("a") as file:
            file.write(text)
        with pytest.raises(Exception):  # noqa: B017 (of whatever reads it)
            check_project(broken, answers, inspect_project)
        shutil.rmtree(broken.parent)
    template = project / "a_name" / "templates" / "base.html"
    edit(template, "{{ project_name }}</a>", "{{ project_name|safe }}!</a>")
    with pytest.raises(AssertionError):
        check_project(project, answers, inspect_project)
