"""What the pages in docs/ tell people to type and to write, done in a generated project."""

import re
import shlex
import shutil
import subprocess
import time
import tomllib

import httpx
import pytest
import yaml

from tests.template import ROOT, free_port


def blocks(page, language):
    """The blocks of code of a page: [text]."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.+?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def certificate(tmp_path):
    """A key and a certificate for localhost, as `certificate(folder)` puts them there."""

    def make(folder):
        command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out crt.pem -days 2 -subj /CN=localhost"
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)

    return make


@pytest.mark.parametrize("command", blocks("http2.md", "sh"), ids=lambda command: command.split()[0])
def test_http2(command, project, certificate):
    server = command.split()[0]
    made = project(server=server)
    certificate(made.path)
    made.manage("migrate")
    port = free_port()
    process = subprocess.Popen(
        shlex.split(command.replace("8443", str(port))),
        cwd=made.path,
        env=made.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx.Client(http2=True, verify=False, base_url=f"https://localhost:{port}", timeout=20) as client:
            answer = wait_for(client, process)
            assert answer.http_version == "HTTP/2"
            pages = [client.get(path) for path in ("/", "/async/", "/sync/", "/accounts/login/", "/static/site.css")]
            assert [(page.status_code, page.http_version) for page in pages] == [(200, "HTTP/2")] * 5
        with httpx.Client(verify=False, base_url=f"https://localhost:{port}", timeout=20) as client:
            assert client.get("/livez").http_version == "HTTP/1.1"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for(client, process):
    for _ in range(200):
        try:
            return client.get("/livez")
        except httpx.TransportError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    raise AssertionError("It did not start.")


def test_other_middleware_and_applications(probed):
    cors, beside, slow, settings = blocks("other-asgi.md", "python")
    made = probed()
    asgi = made.path / "wiki" / "asgi.py"
    asgi.write_text(asgi.read_text() + beside + cors)
    (made.path / "probe" / "urls.py").write_text(
        (made.path / "probe" / "urls.py").read_text() + f"\n\n{slow}\nurlpatterns.append(path('digest/', digest))\n"
    )
    (made.path / "wiki" / "production.py").write_text(settings)
    [command] = blocks("other-asgi.md", "sh")
    variable, value = command.split()[0].split("=")
    made.variables[variable] = value
    made.__dict__.pop("environment", None)
    with made.served() as running, running.client() as client:
        assert client.get("/api/users").json() == {"users": 0}
        home = client.get("/", headers={"Origin": "https://app.example.com"})
        assert home.status_code == 200
        assert home.headers["access-control-allow-origin"] == "https://app.example.com"
        assert len(client.get("/probe/digest/?q=word").text) == 128
        show = "from django.conf import settings; print(settings.SESSION_ENGINE)"
        assert "signed_cookies" in made.manage("shell", "--no-imports", "--command", show).stdout


def test_files_for_hosts(project, tmp_path):
    """They parse, name what a project has, and start it by the line of its Procfile."""
    made = project(database="postgresql")
    [fly] = blocks("deploying.md", "toml")
    [render] = blocks("deploying.md", "yaml")
    [unit] = blocks("deploying.md", "ini")
    fly, render = tomllib.loads(fly), yaml.safe_load(render)
    release = made.procfile()["release"]
    assert fly["deploy"]["release_command"] == release
    assert render["services"][0]["preDeployCommand"] == release
    dockerfile = (made.path / "Dockerfile").read_text()
    assert f"EXPOSE {fly['http_service']['internal_port']}\n" in dockerfile
    web = made.procfile()["web"].replace("0.0.0.0", "127.0.0.1").replace("${PORT:-8000}", "8000")
    web = web.replace(" --workers ${WEB_CONCURRENCY:-1}", "")
    assert f'ExecStart=/bin/sh -c "{web}"\n' in unit
    variables = {each["key"] for each in render["services"][0]["envVars"]} | set(fly["env"])
    readme = (made.path / "README.md").read_text()
    assert [name for name in variables if f"`{name}`" not in readme] == []
    if shutil.which("systemd-analyze"):
        (tmp_path / "wiki.service").write_text(unit)
        result = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / "wiki.service"], capture_output=True, text=True, check=False
        )
        assert [line for line in result.stderr.splitlines() if "wiki.service" in line] == []


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_name_what_there_is():
    """Files, settings and commands that the pages speak of exist."""
    template = ROOT / "{{cookiecutter.project_slug}}"
    texts = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for name in re.findall(r"`tests/(test_\w+\.py)`|`(test_\w+\.py)`", texts):
        assert (ROOT / "tests" / "".join(name)).exists(), name
    settings = (template / "{{cookiecutter.project_slug}}" / "settings.py").read_text(encoding="utf-8")
    for variable in set(re.findall(r"\b(?:DJANGO|ASGI)_[A-Z_]+\b", texts)) - {"DJANGO_SETTINGS_MODULE"}:
        assert variable in settings, variable
