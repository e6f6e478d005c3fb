"""Generated projects pass Django's checks and their own tests, on both databases."""

import shutil
from itertools import cycle

import httpx
import pytest
from _pytest.mark import ParameterSet

from tests import test_isolation
from tests.template import (
    CHOICES,
    ROOT,
    SERVERS,
    Answers,
    MakeProject,
    Project,
    also_in_test_all,
    edit,
    label,
    pairwise,
)


def pairs_of_answers() -> list[Answers | ParameterSet]:
    """The pairs of all answers but the server, which the projects' own tests do not start, and in test-all with it."""
    pairs = pairwise("starter", "database", "channels", "django_version")
    chosen: list[Answers] = [
        {**answers, "server": server} for answers, server in zip(pairs, cycle(SERVERS), strict=False)
    ]
    return [*chosen, *also_in_test_all(*pairwise("starter", "server", "database", "channels", "django_version"))]


@pytest.mark.parametrize("answers", pairs_of_answers(), ids=label)
def test_checks_and_own_tests(answers: Answers, make_project: MakeProject, request: pytest.FixtureRequest) -> None:
    check_project(make_project(**answers), request)


def check_project(project: Project, request: pytest.FixtureRequest) -> None:
    if project.answers["database"] == "postgresql":  # which is not there on Windows
        project.variables["DATABASE_URL"] = request.getfixturevalue("postgresql")
    tests = project.run(str(project.python), "-m", "pytest", "-q", "--create-db", "-W", "error")
    assert " passed" in tests.stdout

    assert "No changes detected" in project.manage("makemigrations", "--check", "--dry-run").stdout
    project.in_production(project.variables.get("DATABASE_URL"))
    check = project.manage("check", "--deploy", "--fail-level", "WARNING")
    assert check.stdout.strip() == "System check identified no issues (2 silenced)."  # W005 and W021
    assert check.stderr == ""


TESTS_THAT_WRITE = """
import pytest
from django.contrib.auth import get_user_model

User = get_user_model()


@pytest.mark.django_db
async def test_async():
    await User.objects.acreate(username="ada")


@pytest.mark.django_db
def test_sync():
    assert not User.objects.exists()
    User.objects.create(username="ada")


@pytest.mark.django_db
class TestInAClass:
    async def test_async(self):
        assert not await User.objects.aexists()
        await User.objects.acreate(username="ada")

    async def test_async_again(self):
        assert not await User.objects.aexists()
"""


@pytest.mark.parametrize("database", CHOICES["database"])
def test_tests_do_not_share_rows(database: str, make_project: MakeProject, request: pytest.FixtureRequest) -> None:
    """So do async tests, which write in another thread."""
    project = make_project(database=database)
    if database == "postgresql":
        project.variables["DATABASE_URL"] = request.getfixturevalue("postgresql")
    (project.path / "tests" / "test_rows.py").write_text(TESTS_THAT_WRITE)
    for options in ([], ["--create-db"]):
        tests = project.run(str(project.python), "-m", "pytest", "-q", *options, "tests/test_rows.py", "-W", "error")
        assert "4 passed" in tests.stdout


def test_access_log_of_tests(make_project: MakeProject) -> None:
    """Each line is in the output of the test that made the request, and none comes after the last test."""
    project = make_project()
    test = (
        "async def test_{name}(async_client):\n    await async_client.get('/{name}/')\n    assert '{name}' == 'first'\n"
    )
    (project.path / "tests" / "test_log.py").write_text(test.format(name="first") + "\n\n" + test.format(name="second"))
    tests = project.run(project.python, "-m", "pytest", "-q", "tests/test_log.py", check=False)
    output = tests.stdout + tests.stderr
    assert "1 failed, 1 passed" in output.splitlines()[-1]
    assert "GET /second/ 404" in output
    assert "GET /first/" not in output


# As in Django's tutorial, part 5: a method with a bug that its test finds.
POLLS_MODELS = """
from datetime import timedelta
from django.db import models
from django.utils import timezone

class Question(models.Model):
    text = models.CharField(max_length=200)
    published = models.DateTimeField()

    def was_published_recently(self):
        return self.published >= timezone.now() - timedelta(days=1)
"""
POLLS_TESTS = """
from datetime import timedelta
from django.test import TestCase
from django.utils import timezone
from .models import Question

class QuestionTests(TestCase):
    def test_question_of_the_future(self):
        question = Question.objects.create(text="?", published=timezone.now() + timedelta(days=30))
        self.assertIs(question.was_published_recently(), False)
"""


def test_tests_where_tutorials_put_them(make_project: MakeProject) -> None:
    """Each command finds an app's `tests.py`, and `test_*.py` beside it, but no uploaded files."""
    project = make_project()
    project.manage("startapp", "polls")
    polls, pytest_command = project.path / "polls", (str(project.python), "-m", "pytest", "-q", "-k", "Tests")
    edit(project.path / "wiki" / "settings.py", '    "pages",', '    "pages",\n    "polls",')
    (polls / "models.py").write_text(POLLS_MODELS)
    (polls / "tests.py").write_text(POLLS_TESTS)
    (polls / "test_more.py").write_text(POLLS_TESTS.replace("QuestionTests", "MoreTests"))
    (project.path / "media.files").mkdir()
    (project.path / "media.files" / "tests.py").write_text("raise SystemExit('uploaded')")
    project.manage("makemigrations", "polls")
    tests = (polls / "tests.py", polls / "test_more.py")
    commands = [
        (pytest_command, tests),
        ((*pytest_command, "polls"), tests),
        ((*pytest_command, "polls/tests.py"), tests[:1]),
        ((str(project.python), "manage.py", "test"), tests),
        ((str(project.python), "manage.py", "test", "polls"), tests),
    ]
    for command, files in commands:
        result = project.run(*command, check=False)
        assert result.returncode == 1, command
        for file in files:
            assert f"polls/{file.name}" in result.stdout + result.stderr
    edit(polls / "models.py", "timedelta(days=1)\n", "timedelta(days=1) and self.published <= timezone.now()\n")
    for command, _ in commands:
        project.run(*command)


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_types(django_version: str, make_project: MakeProject) -> None:
    """All Python of each server, of Channels, of each database and each starter is annotated and passes mypy."""
    annotated = ["--disallow-untyped-defs", "--disallow-untyped-calls", "--check-untyped-defs"]
    for number, (server, starter) in enumerate(zip(cycle(SERVERS), CHOICES["starter"], strict=False)):
        project = make_project(
            project_name=f"site{number}",
            django_version=django_version,
            server=server,
            starter=starter,
            database=CHOICES["database"][number % 2],
            channels=number % 2 == 0,
        )
        types = project.run(project.python, "-m", "mypy", *annotated, check=False)
        assert types.stdout.startswith("Success: no issues found"), types.stdout


def test_types_of_what_tests_put_into_projects(make_project: MakeProject) -> None:
    """It imports Django and the project, so that `make check` cannot check it.

    tests/student/network is left out: its own user model would have to be the project's.
    """
    project = make_project(starter="wiki", database="postgresql", channels=True)
    apps = [ROOT / "tests" / name for name in ("differential", "isolation", "limits", "probe")]
    for app in [*apps, ROOT / "benchmarks" / "bench", ROOT / "tests" / "student" / "encyclopedia"]:
        shutil.copytree(app, project.path / app.name, dirs_exist_ok=True)
    for script in ("inspect_projects.py", "django_suite.py"):
        shutil.copy(ROOT / "tests" / script, project.path)
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write(test_isolation.SETTINGS.format(role_prefix="", background_threads=1))
    # Channels, django-tenants and some libraries of the benchmarks have no types, and Django's test suite is not there.
    flags = ["--strict", "--allow-subclassing-any", "--allow-untyped-calls", "--allow-untyped-decorators"]
    flags += ["--ignore-missing-imports"]
    flags += ["--follow-imports", "silent"]
    paths = [*(app.name for app in apps), "bench", "encyclopedia/views.py", "inspect_projects.py", "django_suite.py"]
    types = project.run(project.python, "-m", "mypy", *flags, *paths, check=False)
    assert types.stdout.startswith("Success: no issues found"), types.stdout


# Valid, but causes warnings: an invalid escape sequence, and an unclosed file.
CARELESS_CODE = """

def words(path):
    return re.findall("\\w+", open(path).read())

assert words(__file__)
"""


def test_warnings(make_project: MakeProject) -> None:
    """Warnings are errors in the project's own modules, and not in a student's code."""
    project = make_project(starter="wiki")
    views = project.path / "encyclopedia" / "views.py"
    views.write_text("import re\n" + views.read_text() + CARELESS_CODE)
    command = (str(project.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "index or sign_in or change")
    tests = project.run(*command)
    assert "invalid escape sequence" in tests.stdout
    assert "unclosed file" in tests.stdout
    for module in ("accounts/views.py", "wiki/context_processors.py"):
        text = (project.path / module).read_text()
        (project.path / module).write_text(f"import warnings\n{text}\nwarnings.warn('old', DeprecationWarning)\n")
        tests = project.run(*command, check=False)
        assert "DeprecationWarning: old" in tests.stdout
        assert tests.returncode == 1
        (project.path / module).write_text(text)


def test_templates_that_name_missing_files(make_project: MakeProject) -> None:
    """The project's own tests find them before production does: in templates of an app and in those beside the settings."""
    project = make_project()
    for template in (project.path / "pages/templates/pages/home.html", project.path / "wiki/templates/base.html"):
        text = template.read_text()
        template.write_text(text + "{% load static %}{# {% static 'comment.png' %} #}{% static 'missing.png' %}")
        tests = project.run(str(project.python), "-m", "pytest", "-q", "-k", "static_files_of_templates", check=False)
        template.write_text(text)
        assert tests.returncode == 1
        assert f"{template}: missing.png" in tests.stdout
        assert "comment.png" not in tests.stdout


OTHER_PAGES = """
from django.contrib.auth import get_user_model
from django.http import HttpResponse
from django.urls import path

def page(request, name=""):
    return HttpResponse(f"One of {get_user_model().objects.count()} users")

urlpatterns = [path("", page), path("<path:name>", page)]
"""


@pytest.mark.parametrize("starter", CHOICES["starter"])
def test_other_pages(starter: str, make_project: MakeProject) -> None:
    """Whoever replaces a starter's pages loses the tests that are about them, and no other."""
    project = make_project(starter=starter, channels=True)
    app = {"blank": "pages", "wiki": "encyclopedia", "live": "status"}.get(starter, starter)
    (project.path / app / "urls.py").write_text(OTHER_PAGES)
    (project.path / app / "tests.py").unlink()
    project.run(str(project.python), "-m", "pytest", "-q", "-W", "error")


AUCTIONS = {
    "__init__.py": "",
    "migrations/__init__.py": "",
    "models.py": """
from django.contrib.auth.models import AbstractUser
from django.db import models

class User(AbstractUser):
    pass

class Listing(models.Model):
    seller = models.ForeignKey(User, on_delete=models.CASCADE)
""",
    "admin.py": """
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from .models import User

admin.site.register(User, UserAdmin)
""",
    "views.py": """
from django.contrib.auth import authenticate, login
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from .models import User

def index(request):
    return render(request, "base.html")

def login_view(request):
    if request.method == "POST":
        user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
        if user is not None:
            login(request, user)
            return HttpResponseRedirect(reverse("index"))
    return render(request, "base.html")

def register(request):
    User.objects.create_user(request.POST["username"], request.POST["email"], request.POST["password"])
    return HttpResponseRedirect(reverse("login"))
""",
    "urls.py": """
from django.urls import path
from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("login", views.login_view, name="login"),
    path("register", views.register, name="register"),
]
""",
}


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_own_user_model(django_version: str, make_project: MakeProject) -> None:
    """An app's `User` takes the place of ours: three lines, then pages, admin and tests work with it."""
    project = make_project(django_version=django_version)
    project.manage("migrate")
    shutil.rmtree(project.path / "pages")
    for name, text in AUCTIONS.items():
        file = project.path / "auctions" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    edit(project.path / "wiki" / "settings.py", '    "pages",', '    "auctions",')
    edit(project.path / "wiki" / "settings.py", '"accounts.User"', '"auctions.User"')
    edit(project.path / "wiki" / "urls.py", '"pages.urls"', '"auctions.urls"')
    project.manage("makemigrations", "auctions")
    assert "InconsistentMigrationHistory" in project.manage("migrate", check=False).stderr
    (project.path / "db.sqlite3").unlink()
    project.manage("migrate")
    assert "No changes detected" in project.manage("makemigrations", "--check", "--dry-run").stdout
    assert "no issues" in project.manage("check").stdout
    project.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'analytical-engine')")
    with project.run_server() as running:
        for path in ("/login", "/accounts/login/", "/admin/login/"):
            with running.client(https=False) as client:
                assert 'href="/login"' in client.get("/").text
                sign_in(client, path, "ada", "analytical-engine")
                assert ">ada</a>" in client.get("/").text
                assert "/admin/auctions/user/" in client.get("/admin/").text
        with running.client(https=False) as client:
            for path in ("/register", "/login"):
                sign_in(client, path, "grace", "amazing-compiler")
            assert ">grace</a>" in client.get("/").text
    project.run(str(project.python), "-m", "pytest", "-q", "-W", "error")
    project.run(project.python, "-m", "mypy")


def sign_in(client: httpx.Client, path: str, username: str, password: str) -> None:
    client.get("/accounts/login/")  # for the CSRF cookie
    form = {"username": username, "password": password, "email": f"{username}@example.com"}
    answer = client.post(path, data=form | {"csrfmiddlewaretoken": client.cookies["csrftoken"]})
    assert answer.status_code == 302


def test_without_a_secret_key(make_project: MakeProject) -> None:
    project = make_project()
    (project.path / ".env").unlink()
    result = project.manage("check", check=False)
    assert result.returncode == 1
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert result.stderr.startswith("DJANGO_SECRET_KEY is not set. For development, copy .env.example to .env, as")


def test_another_settings_module(make_project: MakeProject) -> None:
    project = make_project()
    (project.path / "wiki" / "other.py").write_text("from wiki.settings import *\nSITE_NAME = 'Other'\n")
    show = "import wiki.asgi, wiki.wsgi; from django.conf import settings; print(settings.SITE_NAME)"
    project.variables["DJANGO_SETTINGS_MODULE"] = "wiki.other"
    assert project.run(str(project.python), "-c", show).stdout == "Other\n"
    del project.environment["DJANGO_SETTINGS_MODULE"]
    assert project.run(str(project.python), "-c", show).stdout == "wiki\n"


def test_sqlite_is_set_up_for_real_use(make_project: MakeProject) -> None:
    project = make_project()
    script = (
        "from django.db import connection as c\n"
        "with c.cursor() as cursor:\n"
        "    for pragma in ('journal_mode', 'busy_timeout'):\n"
        "        print(cursor.execute(f'PRAGMA {pragma}').fetchone()[0])\n"
        "print(c.transaction_mode, c.settings_dict['NAME'].parent)\n"
    )
    output = project.manage("shell", "--no-imports", "--command", script).stdout.split()
    assert output == ["wal", "10000", "IMMEDIATE", str(project.path)]
