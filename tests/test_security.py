"""Security headers, limits of sign-in attempts, and known vulnerabilities of dependencies."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.template import (
    CHOICES,
    CONTENT_SECURITY_POLICY,
    SERVERS,
    Answers,
    MakeProject,
    also_in_test_all,
    first_match,
    generate,
    uv,
)


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_headers(django_version: str, make_production_project: MakeProject) -> None:
    project = make_production_project(django_version=django_version)
    with project.run_server() as running, running.client() as client:
        for path, status in (("/", 200), ("/async/", 200), ("/sync/", 200), ("/nothing/", 404), ("/admin/login/", 200)):
            answer = client.get(path)
            assert answer.status_code == status
            assert directives(answer.headers["content-security-policy"]) == directives(CONTENT_SECURITY_POLICY)
            assert answer.headers["strict-transport-security"] == "max-age=3600"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "camera=()" in answer.headers["permissions-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "server-timing" not in answer.headers
        assert sign_in(client, "analytical-engine").status_code == 302
        cookies = {cookie.name: cookie for cookie in client.cookies.jar}
        assert set(cookies) == {"csrftoken", "sessionid"}
        assert all(cookie.secure and cookie.get_nonstandard_attr("SameSite") == "Lax" for cookie in cookies.values())
        assert cookies["sessionid"].has_nonstandard_attr("HttpOnly")


def directives(policy: str) -> set[str]:
    return {directive.strip() for directive in policy.split(";")}


@pytest.mark.parametrize("django_version", ["5.2", *also_in_test_all("6.1")])
def test_policy_is_only_reported_while_debugging(django_version: str, make_project: MakeProject) -> None:
    """The same as in production; test_browser.py reads the console."""
    project = make_project(django_version=django_version)
    project.manage("migrate")
    with project.run_server() as running, running.client(https=False) as client:
        for path in ("/", "/admin/login/"):
            headers = client.get(path).headers
            reported = directives(headers["content-security-policy-report-only"])
            assert reported == directives(CONTENT_SECURITY_POLICY) | {"report-to console"}
            assert {"content-security-policy", "reporting-endpoints"} & set(headers) == set()


# Compares each policy twice, since the middleware caches it, with django-csp's own.
COMPARE_POLICIES = """
from csp import constants, decorators, middleware
from django.conf import settings
from django.http import HttpResponse
from django.test import RequestFactory
from {slug}.serving.csp import CSPMiddleware

policy = settings.CONTENT_SECURITY_POLICY
policy["EXCLUDE_URL_PREFIXES"] = ["/excluded/"]
policy["DIRECTIVES"]["script-src"] = [constants.SELF, constants.NONCE]

def usual(request):
    return HttpResponse()

def nonce(request):
    return HttpResponse(request.csp_nonce)

def own(request):
    return HttpResponse(headers={{"Content-Security-Policy": "sandbox"}})

def without_type(request):
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response

exempt = decorators.csp_exempt()(usual)
update = decorators.csp_update({{"img-src": "example.com"}})(usual)
for view in (usual, nonce, own, without_type, exempt, update, usual):
    for path in ("/", "/excluded/page/", "/"):
        answers = [each(view)(RequestFactory().get(path)) for each in (CSPMiddleware, middleware.CSPMiddleware)]
        headers = [str(answer.headers).replace(answer.text or "no nonce", "the nonce") for answer in answers]
        print(headers[0] == headers[1], view.__name__, path, headers[0])
"""


def test_cached_policy_equals_that_of_django_csp(make_production_project: MakeProject) -> None:
    project = make_production_project(django_version="5.2")
    lines = project.manage("shell", "--command", COMPARE_POLICIES.format(slug=project.path.name)).stdout.splitlines()
    compared = [line for line in lines if line.startswith(("True", "False"))]
    assert len(compared) == 21
    assert all(line.startswith("True") for line in compared), "\n".join(compared)
    assert sum("default-src" in line for line in compared) == 2 * 5  # not for own and exempt, nor what is excluded


def sign_in(client: httpx.Client, password: str, **headers: str) -> httpx.Response:
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get("/accounts/login/").text)
    form = {"username": "ada", "password": password, "csrfmiddlewaretoken": token}
    return client.post("/accounts/login/", data=form, headers={"Origin": "https://example.com", **headers})


def test_sign_in_attempts_are_limited(make_production_project: MakeProject) -> None:
    """Only the username and IP address are locked out, and a client cannot forge the address."""
    project = make_production_project(database="postgresql")
    with project.run_server() as running, running.client() as client:
        here, elsewhere = {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "203.0.113.77"}
        assert [sign_in(client, f"wrong {n}", **here).status_code for n in range(10)] == [200] * 9 + [429]
        refused = sign_in(client, "analytical-engine", **here)
        assert refused.status_code == 429
        assert "too many wrong passwords" in refused.text
        made_up = {"X-Forwarded-For": "192.0.2.1, 203.0.113.9"}
        assert sign_in(client, "analytical-engine", **made_up).status_code == 429
        assert sign_in(client, "analytical-engine", **elsewhere).status_code == 302
        assert "analytical-engine" not in running.output
        assert "wrong 3" not in running.output


# As in tutorials: `login` without `authenticate`, and `authenticate` without a request.
SIGN_UP = """
from django.contrib.auth import aauthenticate, authenticate, get_user_model, login
from django.http import HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def sign_up(request):
    user = get_user_model().objects.create_user(request.POST["username"], password=request.POST["password"])
    login(request, user)
    return HttpResponse()


@csrf_exempt
async def check(request):
    return JsonResponse({"user": str(await aauthenticate(**request.POST.dict()))})


@csrf_exempt
def check_sync(request):
    return JsonResponse({"user": str(authenticate(**request.POST.dict()))})


urlpatterns += [path("sign-up/", sign_up), path("check/", check), path("check-sync/", check_sync)]
"""


@pytest.mark.parametrize(
    ("debug", "django_version"), [(True, "6.1"), (False, "5.2"), *also_in_test_all((True, "5.2"), (False, "6.1"))]
)
def test_one_backend(debug: bool, django_version: str, make_production_project: MakeProject) -> None:
    """Sign-up views, passwords without a request and the limit are the same in development and in production."""
    project = make_production_project(django_version=django_version)
    with (project.path / "wiki" / "urls.py").open("a") as urls:
        urls.write(SIGN_UP)
    server = project.run_server(DJANGO_DEBUG=str(debug), DJANGO_ALLOWED_HOSTS="example.com,127.0.0.1")
    with server as running, running.client(https=not debug) as client:
        assert client.post("/sign-up/", data={"username": "grace", "password": "nanoseconds"}).status_code == 200
        assert "Sign out" in client.get("/").text
        client.cookies.clear()
        for path in ("/check/", "/check-sync/"):
            for _ in range(6):
                wrong = client.post(path, data={"username": "ada", "password": "wrong"})
                assert wrong.json()["user"] == "None"
            assert client.post(path, data={"username": "ada", "password": "analytical-engine"}).json()["user"] == "ada"
        origin = running.url if debug else "https://example.com"
        statuses = [sign_in(client, f"wrong {n}", Origin=origin).status_code for n in range(10)]
        assert statuses == [200] * 9 + [429]
        assert "Traceback" not in running.output


def locked_requirements(folder: Path) -> list[str]:
    """Return what the lock files of all answers pin, as lines of a requirements file."""
    paths = []
    for version in CHOICES["django_version"]:
        for server in SERVERS:
            answers: Answers = {"starter": "live", "server": server, "django_version": version}
            answers |= {"database": "postgresql", "channels": True}
            paths.append(generate(folder / version / server, **answers).path)
    with ThreadPoolExecutor(5) as pool:  # locking waits for the package index
        return sorted(set().union(*pool.map(pins_of, paths)))


def pins_of(path: Path) -> set[str]:
    uv("lock", "--project", str(path))
    export = uv("export", "--project", str(path), "--locked", "--no-hashes", "--no-header", "--no-annotate")
    return {line.split(" ;")[0] for line in export.stdout.splitlines() if "==" in line}


def audit(pins: list[str], file: Path, *options: str) -> tuple[set[str], set[str]]:
    """Return dependencies with known vulnerabilities, and those that could not be looked up (or why none could)."""
    found: set[str] = set()
    unknown: set[str] = set()
    # One requirements file cannot have two versions of Django.
    for pin in pins:
        file.write_text(pin)
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
        result = subprocess.run([*command, "--format", "json", *options], check=False, capture_output=True, text=True)
        try:
            dependencies = json.loads(result.stdout)["dependencies"]
        except ValueError:
            return found, {result.stderr.strip().splitlines()[-1]}
        found |= {each["name"] for each in dependencies if each.get("vulns")}
        unknown |= {each["name"] for each in dependencies if "skip_reason" in each}
        if len(unknown) > 3:
            break
    return found, unknown


def test_dependencies_have_no_known_vulnerabilities(tmp_path: Path) -> None:
    pins = locked_requirements(tmp_path)
    assert len(pins) > 50
    for service in ("pypi", "osv"):
        found, unknown = audit(pins, tmp_path / "requirements.txt", "--vulnerability-service", service)
        assert not found
        if not unknown:
            return
    pytest.skip(f"The data of known vulnerabilities cannot be reached from here: {unknown}")


@contextmanager
def vulnerability_service(name: str) -> Iterator[str]:
    """A server with the API of OSV that reports one vulnerability, of the package `name`."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            package = {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [], "versions": ["1.0"]}
            known = {"id": "TEST-1", "summary": "wrong", "modified": "2026-01-01T00:00:00Z", "affected": [package]}
            body = json.dumps({"vulns": [known]} if asked == name else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def test_the_audit_finds_known_vulnerabilities(tmp_path: Path) -> None:
    with vulnerability_service("leaky") as url:
        options = ("--vulnerability-service", "osv", "--osv-url", url)
        assert audit(["sound==1.0", "leaky==1.0"], tmp_path / "requirements.txt", *options) == ({"leaky"}, set())
    found, unknown = audit(["leaky==1.0"], tmp_path / "requirements.txt", *options, "--timeout", "2")
    assert not found
    assert unknown, "an outage of the service is not a pass"
