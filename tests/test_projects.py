"""Generated projects pass Django's checks and their own tests, on both databases."""

from collections.abc import Callable
from itertools import zip_longest

import httpx
import pytest

from tests.template import CHOICES, SERVERS, Project, edit, label, pairwise


@pytest.mark.parametrize("answers", pairwise("starter", "server", "database", "channels", "django_version"), ids=label)
def test_checks_and_own_tests(answers, project, request):
    check_project(project(**answers), request)


def check_project(made, request):
    if made.answers["database"] == "postgresql":  # which is not there on Windows
        made.variables["DATABASE_URL"] = request.getfixturevalue("postgresql")
    tests = made.run(str(made.python), "-m", "pytest", "-q", "--create-db", "-W", "error")
    assert " passed" in tests.stdout

    assert "No changes detected" in made.manage("makemigrations", "--check", "--dry-run").stdout
    made.in_production(made.variables.get("DATABASE_URL"))
    check = made.manage("check", "--deploy", "--fail-level", "WARNING")
    assert check.stdout.strip() == "System check identified no issues (0 silenced)."
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
def test_tests_keep_their_rows_to_themselves(
    database: str, project: Callable[..., Project], request: pytest.FixtureRequest
) -> None:
    """Async tests as well, which write in another thread."""
    made = project(database=database)
    if database == "postgresql":
        made.variables["DATABASE_URL"] = request.getfixturevalue("postgresql")
    (made.path / "tests" / "test_rows.py").write_text(TESTS_THAT_WRITE)
    for options in ([], ["--create-db"]):
        tests = made.run(str(made.python), "-m", "pytest", "-q", *options, "tests/test_rows.py", "-W", "error")
        assert "4 passed" in tests.stdout


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_types(django_version, project, tmp_path):
    """Each line of Python that any answer brings: those of each server, of Channels, of each database and starter."""
    for number, (server, starter) in enumerate(zip_longest(SERVERS, CHOICES["starter"], fillvalue="blank")):
        made = project(
            project_name=f"site{number}",
            django_version=django_version,
            server=server,
            starter=starter,
            database=CHOICES["database"][number % 2],
            channels=number % 2 == 0,
        )
        types = made.run(str(made.python), "-m", "mypy", "--cache-dir", str(tmp_path / "mypy"))
        assert types.stdout.startswith("Success: no issues found")


# What is valid, but makes Python warn: a string with an escape that there is not, and a file that nobody closes.
CARELESS_CODE = """

def words(path):
    return re.findall("\\w+", open(path).read())

assert words(__file__)
"""


def test_warnings(project: Callable[..., Project]) -> None:
    """A student's code does not fail for them; the project's own modules do."""
    made = project(starter="wiki")
    views = made.path / "encyclopedia" / "views.py"
    views.write_text("import re\n" + views.read_text() + CARELESS_CODE)
    command = (str(made.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "index or sign_in or change")
    tests = made.run(*command)
    assert "invalid escape sequence" in tests.stdout
    assert "unclosed file" in tests.stdout
    for module in ("accounts/views.py", "wiki/context_processors.py"):
        text = (made.path / module).read_text()
        (made.path / module).write_text(f"import warnings\n{text}\nwarnings.warn('old', DeprecationWarning)\n")
        tests = made.run(*command, check=False)
        assert "DeprecationWarning: old" in tests.stdout
        assert tests.returncode == 1
        (made.path / module).write_text(text)


def test_templates_that_name_missing_files(project: Callable[..., Project]) -> None:
    """The project's own tests find them before production does: in templates of an app and in those beside the settings."""
    made = project()
    for template in (made.path / "pages/templates/pages/home.html", made.path / "wiki/templates/base.html"):
        text = template.read_text()
        template.write_text(text + "{% load static %}{# {% static 'comment.png' %} #}{% static 'missing.png' %}")
        tests = made.run(str(made.python), "-m", "pytest", "-q", "-k", "static_files_of_templates", check=False)
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
def test_other_pages(starter: str, project: Callable[..., Project]) -> None:
    """Whoever replaces a starter's pages loses the tests that are about them, and no other."""
    made = project(starter=starter, channels=True)
    app = {"blank": "pages", "wiki": "encyclopedia", "chat": "chat", "live": "status"}[starter]
    (made.path / app / "urls.py").write_text(OTHER_PAGES)
    (made.path / "tests" / f"test_{app}.py").unlink()
    made.run(str(made.python), "-m", "pytest", "-q", "-W", "error")


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


@pytest.mark.parametrize("django_version", CHOICES["django_version"])
def test_own_user_model(django_version: str, project: Callable[..., Project]) -> None:
    """An app's `User` takes the place of ours: three lines, then pages, admin and tests work with it."""
    made = project(django_version=django_version)
    made.manage("migrate")
    for name, text in AUCTIONS.items():
        file = made.path / "auctions" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    edit(made.path / "wiki" / "settings.py", '    "pages",', '    "auctions",')
    edit(made.path / "wiki" / "settings.py", '"accounts.User"', '"auctions.User"')
    edit(made.path / "wiki" / "urls.py", '"pages.urls"', '"auctions.urls"')
    made.manage("makemigrations", "auctions")
    assert "InconsistentMigrationHistory" in made.manage("migrate", check=False).stderr
    (made.path / "db.sqlite3").unlink()
    made.manage("migrate")
    assert "No changes detected" in made.manage("makemigrations", "--check", "--dry-run").stdout
    assert "no issues" in made.manage("check").stdout
    made.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'analytical-engine')")
    with made.served() as running:
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
    (made.path / "tests" / "test_pages.py").unlink()
    made.run(str(made.python), "-m", "pytest", "-q", "-W", "error")


def sign_in(client: httpx.Client, path: str, username: str, password: str) -> None:
    client.get("/accounts/login/")  # for the CSRF cookie
    form = {"username": username, "password": password, "email": f"{username}@example.com"}
    answer = client.post(path, data=form | {"csrfmiddlewaretoken": client.cookies["csrftoken"]})
    assert answer.status_code == 302


def test_without_a_secret_key(project):
    made = project()
    (made.path / ".env").unlink()
    result = made.manage("check", check=False)
    assert result.returncode == 1
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
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
