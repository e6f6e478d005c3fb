"""Generated projects pass Django's checks and their own tests, on both databases."""

import pytest

from tests.template import combinations, label


@pytest.mark.parametrize("answers", combinations("django_version", "server", "database"), ids=label)
def test_checks_and_own_tests(answers, project, postgresql):
    check_project(project(**answers, channels=answers["server"] in ("daphne", "granian")), postgresql)


def check_project(made, postgresql):
    if made.answers["database"] == "postgresql":
        made.variables["DATABASE_URL"] = postgresql
    tests = made.run(str(made.python), "-m", "pytest", "-q", "--create-db")
    assert " passed" in tests.stdout

    assert "No changes detected" in made.manage("makemigrations", "--check", "--dry-run").stdout
    made.in_production(made.variables.get("DATABASE_URL"))
    check = made.manage("check", "--deploy", "--fail-level", "WARNING")
    assert check.stdout.strip() == "System check identified no issues (0 silenced)."
    assert check.stderr == ""


STARTERS = [each for each in combinations("starter", "django_version", "database") if each["starter"] != "blank"]


@pytest.mark.parametrize("answers", STARTERS, ids=label)
def test_starters(answers, project, postgresql, tmp_path):
    made = project(**answers)
    check_project(made, postgresql)
    if answers["database"] == "sqlite":  # no line of Python differs but in the settings
        types = made.run(str(made.python), "-m", "mypy", "--cache-dir", str(tmp_path / "mypy"))
        assert types.stdout.startswith("Success: no issues found")


def test_without_a_secret_key(project):
    made = project()
    (made.path / ".env").unlink()
    result = made.manage("check", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("DJANGO_SECRET_KEY is not set. For development copy .env.example to .env")


def test_another_settings_module(project):
    made = project()
    (made.path / "wiki" / "other.py").write_text("from wiki.settings import *\nSITE_NAME = 'Other'\n")
    show = "import wiki.asgi, wiki.wsgi; from django.conf import settings; print(settings.SITE_NAME)"
    made.variables["DJANGO_SETTINGS_MODULE"] = "wiki.other"
    assert made.run(str(made.python), "-c", show).stdout == "Other\n"
    del made.environment["DJANGO_SETTINGS_MODULE"]
    assert made.run(str(made.python), "-c", show).stdout == "wiki\n"


def test_sqlite_is_set_up_for_real_use(project):
    made = project()
    script = (
        "from django.db import connection as c\n"
        "with c.cursor() as cursor:\n"
        "    for pragma in ('journal_mode', 'busy_timeout'):\n"
        "        print(cursor.execute(f'PRAGMA {pragma}').fetchone()[0])\n"
        "print(c.transaction_mode, c.settings_dict['NAME'].parent)\n"
    )
    output = made.manage("shell", "--no-imports", "--command", script).stdout.split()
    assert output == ["wal", "10000", "IMMEDIATE", str(made.path)]
