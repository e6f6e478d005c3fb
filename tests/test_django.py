"""Django's own tests pass with the project's classes in place of Django's, as they do without."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock

from tests.template import CHOICES, ROOT, MakeProject, Project

LABELS = """
    asgi handlers middleware middleware_exceptions sessions_tests messages_tests csrf_tests auth_tests.test_middleware
    deprecation.test_middleware_mixin signals file_uploads.tests.FileUploadTests requests_tests responses test_client urlpatterns_reverse
"""


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_djangos_own_tests(django_version: str, make_project: MakeProject) -> None:
    project = make_project(project_name="ours", django_version=django_version)
    version = project.run(str(project.python), "-c", "import django; print(django.__version__)").stdout.strip()
    tests = django_source(version) / "tests"
    with_ours = run_suite(project, tests, project.path)
    count, failed = with_ours
    assert count > 1000
    if failed:  # some need a locale, for example, that a machine may lack
        assert with_ours == run_suite(project, tests)


def run_suite(project: Project, tests: Path, *options: Path) -> tuple[int, list[str]]:
    """Return how many tests ran, and which of them failed."""
    script = [
        str(project.python),
        "-W",
        "ignore",
        str(ROOT / "tests" / "django_suite.py"),
        str(tests),
        *map(str, options),
    ]
    project.variables["PYTHONWARNINGS"] = "ignore"
    project.environment.pop("DJANGO_SETTINGS_MODULE", None)
    output = project.run(*script, "--", *LABELS.split(), check=False, timeout=600).stderr
    count = re.search(r"^Ran (\d+) tests in", output, re.MULTILINE)
    assert count, output
    return int(count[1]), sorted(re.findall(r"^(?:FAIL|ERROR): (.+)$", output, re.MULTILINE))


def django_source(version: str) -> Path:
    """Django's source archive, unpacked; kept in build/."""
    folder = ROOT / "build" / "django" / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            download = ["download", "--quiet", "--no-deps", "--no-binary", "django", "--ignore-requires-python"]
            subprocess.run(
                [sys.executable, "-m", "pip", *download, "--dest", str(folder.parent), f"django=={version}"], check=True
            )
            [archive] = folder.parent.glob(f"[dD]jango-{version}.tar.gz")
            with tarfile.open(archive) as source:
                if hasattr(tarfile, "data_filter"):
                    source.extractall(folder.parent, filter="data")
                else:  # Python 3.11.2, as Debian has it, has no filters
                    source.extractall(folder.parent)
            (folder.parent / f"django-{version}").rename(folder)
    return folder
