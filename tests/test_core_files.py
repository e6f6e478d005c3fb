"""The core's files as they stand in the template, without a project: plain Python that is formatted, typed and needs no settings."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.template import CHOICES, ROOT

SLUG = "{{cookiecutter.project_slug}}"
SERVING = ROOT / SLUG / SLUG / "serving"
HOOK = (ROOT / "core" / "hooks" / "post_gen_project.py").read_text()
CORE_FILES = re.findall(r'^    "(\w+\.py)",$', HOOK, re.MULTILINE)
MYPY = """
[mypy]
strict = true
plugins = mypy_django_plugin.main
[mypy.plugins.django-stubs]
django_settings_module = settings
"""
USE_WITHOUT_SETTINGS = """
import importlib, sys
names = sys.argv[1:]
for name in names:
    if name not in ("apps", "checks"):  # which Django loads once there are settings
        importlib.import_module(f"mysite.serving.{name}")

from django.conf import settings
from mysite.serving.conf import DEFAULTS, get_setting
from mysite.serving.threads import ThreadPool

settings.configure(INSTALLED_APPS=["mysite.serving"])
assert {name: get_setting(name) for name in DEFAULTS} == DEFAULTS
assert ThreadPool().size == DEFAULTS["ASGI_THREADS"]
settings.ASGI_THREADS = 3
assert ThreadPool().size == 3

import django
django.setup()
assert "mysite.serving.checks" in sys.modules
"""


def test_no_template_tags() -> None:
    assert len(CORE_FILES) > 10
    for name in CORE_FILES:
        assert not re.search("{[{%#]|[}%#]}", (SERVING / name).read_text()), name


def test_ruff() -> None:
    """With the line length and the rules of generated projects, whose configuration is a template."""
    options = ["--isolated", "--no-cache", "--line-length", "100", "--target-version", "py311"]
    files = [str(SERVING / name) for name in CORE_FILES]
    # All but the rule about names of packages: the folder's name is a tag.
    rules = ["--extend-select", "ASYNC,B,DJ,I,S,SIM,UP", "--ignore", "N999"]
    for command in (["check", *rules], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *options, *files]
        result = subprocess.run(ruff, check=False, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package that holds the core's files and nothing else."""
    (tmp_path / "mysite" / "serving").mkdir(parents=True)
    (tmp_path / "mysite" / "__init__.py").touch()
    for name in CORE_FILES:
        shutil.copy(SERVING / name, tmp_path / "mysite" / "serving")
    return tmp_path


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_types(django_version: str, environments: Callable[[str], Path], package: Path) -> None:
    (package / "settings.py").write_text('SECRET_KEY = "x"\nROOT_URLCONF = "urls"\n')
    (package / "mypy.ini").write_text(MYPY)
    command = [str(environments(django_version)), "-m", "mypy", "mysite"]
    result = subprocess.run(command, check=False, cwd=package, capture_output=True, text=True)
    assert result.stdout.startswith("Success: no issues found"), result.stdout + result.stderr


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_settings_are_not_needed(django_version: str, environments: Callable[[str], Path], package: Path) -> None:
    names = [name.removesuffix(".py") for name in CORE_FILES if name != "__init__.py"]
    command = [str(environments(django_version)), "-W", "error", "-c", USE_WITHOUT_SETTINGS, *names]
    result = subprocess.run(command, check=False, cwd=package, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
