"""Error pages, accounts, languages and uploaded files, asked for on servers that run."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.template import (
    MakeProject,
    Project,
    RunNginx,
    Server,
    also_in_test_all,
    choose_python,
    code_blocks,
    edit,
    first_match,
    free_port,
    install_environment,
    on_servers,
    page_text,
    run_commands,
)

RAISING_VIEWS = """
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.urls import path

ERRORS = {"bad": SuspiciousOperation, "forbidden": PermissionDenied, "broken": ZeroDivisionError}

def view(request, name):
    raise ERRORS[name]("the reason")

async def async_view(request, name):
    raise ERRORS[name]("the reason")

urlpatterns += [path("raise/<name>/", view), path("araise/<name>/", async_view)]
"""
ERROR_PAGES = {
    "/raise/bad/": (400, "Bad request"),
    "/araise/bad/": (400, "Bad request"),
    "/raise/forbidden/": (403, "Not allowed"),
    "/araise/forbidden/": (403, "Not allowed"),
    "/nothing/": (404, "Page not found"),
    "/raise/broken/": (500, "Server error"),
    "/araise/broken/": (500, "Server error"),
}


@on_servers("uvicorn")
def test_error_pages(server: str, make_production_project: MakeProject) -> None:
    """They look like the site, under its policy, tell nothing about the error, and ADMINS get that by mail."""
    project = make_production_project(server=server)
    with (project.path / "pages" / "urls.py").open("a") as urls:
        urls.write(RAISING_VIEWS)
    mails = project.path.parent / "mails"
    variables = {"EMAIL_URL": f"file:///{mails}", "ADMINS": "ada@example.com,grace@example.com"}
    variables["DEFAULT_FROM_EMAIL"] = "site@example.com"
    with project.run_server(port=None, **variables) as running, running.client() as client:
        for path, (status, title) in ERROR_PAGES.items():
            check_error_page(client.get(path), status, title, home=status not in (400, 500))
        refused = client.post("/accounts/login/", data={"username": "ada"})
        check_error_page(refused, 403, "The form was not accepted", home=True)
        assert "DJANGO_CSRF_TRUSTED_ORIGINS" not in refused.text
        check_error_page(client.get("/", headers={"Host": "evil.example"}), 400, "Bad request", home=False)
        running.wait_until(lambda: len(read_mails(mails)) == 2)
        for mail in read_mails(mails):
            assert "\nFrom: site@example.com\nTo: ada@example.com, grace@example.com\n" in mail
        # Without what the session of a visitor needs.
        project.manage("shell", "--command", RENAME_SESSIONS)
        client.cookies.set("sessionid", "x" * 32)
        check_error_page(client.get("/accounts/"), 500, "Server error", home=False)


RENAME_SESSIONS = """
from django.db import connection
connection.cursor().execute("ALTER TABLE django_session RENAME TO other")
"""


def check_error_page(page: httpx.Response, status: int, title: str, home: bool) -> None:
    assert (page.status_code, first_match("<h1>(.+)</h1>", page.text)) == (status, title)
    assert ('<p><a href="/">Go to the home page</a></p>' in page.text) == home
    assert re.search(r'<link rel="stylesheet" href="/static/site(\.\w+)?\.css">', page.text)
    assert not re.search("style=|<style|<script|the reason|DEBUG", page.text)
    assert "default-src 'self'" in page.headers["content-security-policy"]


def read_mails(folder: Path) -> list[str]:
    """Return the mails about a ZeroDivisionError that are complete."""
    texts = [file.read_text() for file in folder.glob("*")]
    return [text for text in texts if "Exception Type: ZeroDivisionError" in text and text.endswith(f"{'-' * 79}\n")]


def test_production_without_https(make_production_project: MakeProject) -> None:
    """As the documentation says for a look at production's pages, and with other values for HSTS."""
    project = make_production_project()
    readme = (project.path / "README.md").read_text()
    settings = project.path / "wiki" / "settings.py"
    [hsts] = [block for block in code_blocks("settings.md", "python") if "SECURE_HSTS_PRELOAD" in block]
    settings.write_text(f"{settings.read_text()}\n{hsts}")
    [line] = code_blocks("settings.md", "text")
    assert f"`{line.strip()}`" == first_match("(`DJANGO_DEBUG=false .+?`)", readme)
    variables = dict(re.findall(r"(DJANGO_[A-Z_]+)=(\w+)", line))
    assert set(variables) == {"DJANGO_DEBUG", "DJANGO_SECURE_SSL_REDIRECT"}
    variables["DJANGO_ALLOWED_HOSTS"] = "127.0.0.1,example.com"
    with project.run_server(**variables, DJANGO_SECURE_HSTS_SECONDS="86400") as running:
        with running.client(https=False) as client:
            page = client.get("/")
            assert page.status_code == 200
            [sheet] = re.findall(r'href="(/static/site\.\w+\.css)"', page.text)
            assert "strict-transport-security" not in page.headers
        with running.client() as client:
            for path in ("/", sheet):
                sent = client.get(path).headers["strict-transport-security"]
                assert sent == "max-age=86400; includeSubDomains; preload"
    variables = {"DJANGO_SECURE_HSTS_SECONDS": "0", "DJANGO_SECURE_SSL_REDIRECT": ""}
    with project.run_server(**variables) as running, running.client() as client:
        for path in ("/", sheet):
            assert "strict-transport-security" not in client.get(path).headers
        to = client.get("http://example.com/")
        assert (to.status_code, to.headers["location"]) == (301, "https://example.com/")


def post(client: httpx.Client, path: str, **form: str) -> httpx.Response:
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get(path).text)
    headers = {"Origin": "https://example.com"}
    return client.post(path, data={**form, "csrfmiddlewaretoken": token}, headers=headers)


@pytest.mark.parametrize("starter", ["chat", *also_in_test_all("blank", "wiki", "live", "notifications")])
def test_accounts(starter: str, make_production_project: MakeProject) -> None:
    """Sign up, be sent on, see the account; one line fewer, and nobody can sign up."""
    project = make_production_project(starter=starter)
    new = {"username": "grace", "email": "grace@example.com", "password1": "nanoseconds", "password2": "nanoseconds"}
    with project.run_server() as running, running.client() as client:
        assert 'href="/accounts/register/"' in client.get("/").text
        assert 'href="/accounts/register/?next=/admin/"' in client.get("/accounts/login/?next=/admin/").text
        assert "too common" in post(client, "/accounts/register/", **new | dict.fromkeys(new, "password")).text
        assert post(client, "/accounts/register/", **new).headers["location"] == "/"
        assert '<a href="/accounts/">grace</a>' in client.get("/").text
        assert "grace@example.com" in client.get("/accounts/").text
        for path in ("login", "register"):
            assert client.get(f"/accounts/{path}/").headers["location"] == "/"
        client.cookies.clear()
        statuses = [post(client, "/accounts/register/", username="ada").status_code for _ in range(60)]
        assert statuses == [200] * 58 + [429] * 2  # two were asked above
        elsewhere = {"X-Forwarded-For": "203.0.113.9"}
        assert client.post("/accounts/register/", headers=elsewhere).status_code == 403  # for its token

    readme = (project.path / "README.md").read_text()
    line, file = re.findall(r"delete the line of `(.+?)` in `(.+?)`", readme)[0]
    urls = project.path / file
    kept = [text for text in urls.read_text().splitlines(keepends=True) if f'"{line}"' not in text]
    assert len(kept) == urls.read_text().count("\n") - 1
    urls.write_text("".join(kept))
    with project.run_server() as running, running.client() as client:
        assert client.get("/accounts/register/").status_code == 404
        for path in ("/", "/accounts/login/"):
            assert "register" not in client.get(path).text
    project.run(sys.executable, "-m", "ruff", "check", "--no-cache")
    tests = project.run(str(project.python), "-m", "pytest", "-q", "tests", "-k", "sign or account")
    assert re.search(r" passed, 4 skipped", tests.stdout), tests.stdout


GREETINGS = """
from django.http import HttpResponse
from django.urls import path
from django.utils.translation import gettext
import asyncio

def hello(request):
    return HttpResponse(gettext("Yes"))

async def ahello(request):
    first = gettext("Yes")
    await asyncio.sleep(0.05)
    assert gettext("Yes") == first
    return HttpResponse(first)

urlpatterns += [path("hello/", hello), path("ahello/", ahello)]
"""


@on_servers("granian")
def test_languages(server: str, make_project: MakeProject) -> None:
    """The lines of docs/reference/settings.md: each of many visitors at once has a language of their own, and no thread more."""
    project = make_project(server=server, django_version="6.1")
    [lines] = [block for block in code_blocks("settings.md", "python") if "LocaleMiddleware" in block]
    with (project.path / "wiki" / "settings.py").open("a") as settings:
        settings.write(lines)
    with (project.path / "pages" / "urls.py").open("a") as urls:
        urls.write(GREETINGS)
    project.manage("migrate")
    project.environment["DJANGO_LANGUAGE_CODE"] = "fr"
    assert "no issues" in project.manage("check").stdout
    asked = [("de", "Ja"), ("fr", "Oui"), ("en", "Yes"), ("it", "Oui")] * 15
    with project.run_server() as running, running.client(https=False) as client, ThreadPoolExecutor(20) as pool:
        for path in ("/hello/", "/ahello/"):
            answers = pool.map(lambda each: client.get(path, headers={"Accept-Language": each[0]}).text, asked)  # noqa: B023
            assert list(answers) == [word for _, word in asked]
        for path in ("/", "/accounts/login/"):
            page = client.get(path, headers={"Accept-Language": "de"})
            assert '<html lang="de">' in page.text
            assert page.headers["content-language"] == "de"
        assert "Benutzername" in page.text


UPLOAD_VIEWS = """
from django.forms import modelform_factory
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt
from pages.models import Photo

@csrf_exempt
def upload(request):
    photo = modelform_factory(Photo, fields=["file"])(request.POST, request.FILES).save()
    return HttpResponse(photo.file.url)
"""
# Is each of them shown, or saved by the browser?
UPLOADS = {"evil.py": False, "page.html": False, "drawing.svg": False, "photo.png": True, "PHOTO.JPG": True}


def add_uploads(project: Project) -> None:
    """Add the model of docs/how-to/uploads.md and a view that saves what is uploaded."""
    app = project.path / "pages"
    (app / "models.py").write_text(code_blocks("uploads.md", "python")[0].replace("photos/", "pages/"))
    (app / "migrations").mkdir()
    (app / "migrations" / "__init__.py").touch()
    with (app / "views.py").open("a") as views:
        views.write(UPLOAD_VIEWS)
    with (app / "urls.py").open("a") as urls:
        urls.write('\nurlpatterns.append(path("upload/", views.upload))\n')
    project.manage("makemigrations", "pages")
    project.manage("migrate")


def upload(client: httpx.Client, names: list[str]) -> list[str]:
    """Upload a file of each name; return the links to them."""
    content = b"<script>alert(1)</script>"
    return [client.post("/upload/", files={"file": (name, content)}).text for name in names]


def check_uploads(client: httpx.Client, links: list[str]) -> None:
    for link, shown in zip(links, UPLOADS.values(), strict=True):
        file = client.get(link)
        assert (file.status_code, file.text) == (200, "<script>alert(1)</script>"), link
        disposition = file.headers.get("content-disposition", "inline").partition(";")[0]
        assert disposition == ("inline" if shown else "attachment"), link
        assert file.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["content-type"].startswith("image/") or not shown
    for path in ("/media/", "/media/pages/", "/media/../manage.py", "/media/..%2fmanage.py", "/media/nothing"):
        assert client.get(path).status_code in (400, 403, 404), path


@on_servers("granian")  # whose reload watches all files, not only Python's
def test_uploads(server: str, make_project: MakeProject, run_nginx: RunNginx) -> None:
    """No upload changes the code, and none can run as a page: from the development server, and from nginx."""
    project = make_project(server=server)
    add_uploads(project)
    project.run("git", "init", "--quiet")
    project.run("git", "add", ".")
    with project.run_dev_server() as running, running.client(https=False) as client:
        links = upload(client, list(UPLOADS))
        assert links == [f"/media/pages/{name}" for name in UPLOADS]
        check_uploads(client, links)
        assert "Internal Server Error" not in running.output
        time.sleep(1 if server == "granian" else 0)
        assert "Changes detected" not in running.output
    assert project.run("git", "ls-files", "--others", "--exclude-standard").stdout == ""
    media = project.path / "media.files"
    assert {path.name for path in (media / "pages").iterdir()} == set(UPLOADS)
    for statement in ("import evil", "import pages.evil", "__import__('media.files.pages.evil')"):
        assert "ModuleNotFoundError" in project.manage("shell", "--command", statement, check=False).stderr
    (media / "__init__.py").write_text("raise SystemExit('uploaded')")
    tests = project.manage("test", check=False)
    assert "uploaded" not in tests.stdout + tests.stderr
    tests = project.run(str(project.python), "-m", "pytest", "-q", "-k", "uploaded_files")
    assert "3 passed" in tests.stdout
    (media / "__init__.py").unlink()

    types, location = code_blocks("uploads.md", "nginx")
    folder = first_match("alias (.+);", location)
    assert folder.endswith("/media.files/")
    site = f"127.0.0.1:{free_port()}"
    images = "types { image/png png; image/jpeg jpg; text/html html; image/svg+xml svg; }"
    server_block = f"server {{ listen {site}; {location.replace(folder, f'{media}/')} }}"
    with run_nginx(f"{images} {types} {server_block}"), httpx.Client(base_url=f"http://{site}") as client:
        check_uploads(client, links)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that speaks the protocol of S3."""
    requirements = ["moto[s3]>=5.2,<6", "flask", "flask-cors"]
    python = install_environment(choose_python(), " ".join([str(choose_python()), *requirements]), lambda: requirements)
    port = free_port()
    with (tmp_path / "s3.log").open("w") as log:
        command = [str(python), "-m", "moto.server", "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Server(process, port, tmp_path / "s3.log")
        server.wait_until(lambda: httpx.get(f"{server.url}/moto-api/").status_code)
        yield server.url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("django_version", ["6.1", *also_in_test_all("5.2")])
def test_uploads_to_object_storage(django_version: str, make_project: MakeProject, s3: str) -> None:
    """The lines of docs/how-to/uploads.md: files are in the bucket, links are signed, and without the variable they are here."""
    project = make_project(django_version=django_version)
    add_uploads(project)
    [add], (_, variable, storage) = code_blocks("uploads.md", "sh"), code_blocks("uploads.md", "python")
    run_commands(add, project.path, environment=os.environ | {"UV_NO_SYNC": "1"})
    settings = project.path / "wiki" / "settings.py"
    edit(settings, "env.seal()", f"{variable}env.seal()")
    with settings.open("a") as file:
        file.write(storage)
    project.run(str(project.python), "-m", "pytest", "-q", "-k", "uploaded_files")
    names = set(re.findall("`(AWS_[A-Z0-9_]+)`", page_text("uploads.md")))
    values = {"AWS_ENDPOINT_URL_S3": s3, "AWS_DEFAULT_REGION": "eu-central-1"}
    values |= {name: "secret" for name in names - set(values)}
    assert len(values) == 4
    project.environment.update(values)
    create = "import boto3; boto3.client('s3').create_bucket(Bucket='files', CreateBucketConfiguration={'LocationConstraint': 'eu-central-1'})"
    project.run(str(project.python), "-c", create)
    with project.run_server(S3_BUCKET="files") as running, running.client(https=False) as client:
        links = upload(client, ["page.html", "page.html"])
        assert len(set(links)) == 2
        for link in links:
            assert link.startswith(f"{s3}/files/pages/page")
            assert "Signature=" in link
            kept = httpx.get(link)
            assert (kept.text, kept.headers["content-disposition"]) == ("<script>alert(1)</script>", "attachment")
    assert not (project.path / "media.files").exists()
