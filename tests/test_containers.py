"""Real images and stacks of containers, built and tested from outside."""

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Unpack

import httpx
import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.template import (
    CHOICES,
    IN_CI,
    SERVERS,
    Answers,
    Docker,
    Project,
    code_blocks,
    free_port,
    generate,
    on_servers,
    run_commands,
)

Compose = Callable[..., str]

HEADERS = {"Host": "example.com", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize("server", SERVERS)
def test_dockerfile_lint(server: str, tmp_path: Path) -> None:
    check_dockerfile(generate(tmp_path, project_name="wiki", server=server, starter="wiki"))


def check_dockerfile(project: Project) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, project.path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@on_servers("uvicorn")  # the stacks below have the images of the others
def test_image(server: str, docker: Docker, tmp_path: Path) -> None:
    project = generate(tmp_path, lock=True, project_name="wiki", server=server)
    project.path.joinpath("db.sqlite3").write_text("local data")
    tag = f"test-{server}-{uuid.uuid4().hex[:8]}"
    docker("build", "--tag", tag, project.path)
    try:
        check_image(docker, tag)
        check_rebuild(docker, tag, project)
    finally:
        docker("image", "rm", "--force", tag)


def check_image(docker: Docker, tag: str) -> None:
    key = "secret-" + uuid.uuid4().hex
    options = ["--read-only", "--tmpfs", "/tmp", "--volume", "/data", "--publish", "127.0.0.1::8000"]
    options += ["--env", f"DJANGO_SECRET_KEY={key}", "--env", "DJANGO_ALLOWED_HOSTS=example.com"]
    options += ["--env", "FORWARDED_ALLOW_IPS=*"]
    container = docker("run", "--detach", *options, tag).split()[0]
    try:
        url = "http://" + docker("port", container, "8000").split()[-1]
        wait_until(lambda: httpx.get(f"{url}/livez").status_code == 200, lambda: docker("logs", container))
        home = httpx.get(url, headers=HEADERS)
        assert home.status_code == 200
        [sheet] = re.findall(r'href="(/static/site\.[0-9a-f]{12}\.css)"', home.text)
        css = httpx.get(url + sheet, headers=HEADERS | {"Accept-Encoding": "br"})
        assert (css.status_code, css.headers["content-encoding"]) == (200, "br")
        assert httpx.get(f"{url}/readyz").status_code == 200

        def inside(command: str) -> str:
            return docker("exec", container, "sh", "-c", command, check=False)

        assert inside("id -u").strip() == "10001"
        assert "Read-only file system" in inside("touch /app/x")
        absent = ("-e .env", "-e .env.example", "-e db.sqlite3", "-e .git", "-e tests", "-e tests.py", "-e conftest.py")
        assert inside(f"command -v uv gcc cc; ls -a /app /app/* | grep -x {' '.join(absent)}") == ""
        health = ("inspect", "--format", "{{.State.Health.Status}}", container)
        wait_until(lambda: docker(*health).strip() == "healthy", lambda: docker("inspect", container))
        start = time.monotonic()
        docker("stop", "--time", "20", container)
        assert time.monotonic() - start < 15
        logs = docker("logs", container)
        assert "Traceback" not in logs
        assert key not in logs
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container).strip() == "0", logs
    finally:
        docker("rm", "--force", "--volumes", container)


def check_rebuild(docker: Docker, tag: str, project: Project) -> None:
    """A change of the code does not reinstall the dependencies."""
    views = project.path / "pages" / "views.py"
    views.write_text(views.read_text() + "\n# changed\n")
    steps = docker("build", "--tag", tag, project.path, env=os.environ | {"BUILDKIT_PROGRESS": "plain"})
    [step] = re.findall(r"^(#\d+) \[.*uv sync", steps, re.MULTILINE)
    assert f"\n{step} CACHED" in steps


def wait_until(condition: Callable[[], object], explain: Callable[[], str], seconds: int = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(explain())


class RunStack(Protocol):
    def __call__(
        self, prepare: Callable[[Project], None] = ..., **answers: Unpack[Answers]
    ) -> AbstractContextManager[tuple[str, Compose]]: ...


@pytest.fixture
def run_stack(docker: Docker, tmp_path: Path) -> RunStack:
    """`with run_stack(**answers) as (url, compose)`: the project's compose.yaml with two web containers.

    `prepare(project)` changes the project first.
    """

    @contextmanager
    def start(
        prepare: Callable[[Project], None] = lambda project: None, **answers: Unpack[Answers]
    ) -> Iterator[tuple[str, Compose]]:
        project = generate(tmp_path, lock=True, **answers)
        prepare(project)
        variables = {
            "HTTP_PORT": str(free_port()),
            "HTTPS_PORT": str(free_port()),
            "POSTGRES_PASSWORD": "p@ss:/w#1%41?[$x]",
        }
        name = f"test{uuid.uuid4().hex[:8]}"

        def compose(*arguments: str) -> str:
            return docker("compose", "--project-name", name, *arguments, cwd=project.path, env=os.environ | variables)

        try:
            # The ports of PostgreSQL and Redis are for development on this machine, where something else may have them.
            file = project.path / "compose.yaml"
            file.write_text(re.sub(r' +ports: \["127\.0\.0\.1:\d+:\d+"\]\n', "", file.read_text()))
            compose("up", "--build", "--detach", "--scale", "web=2")
            url = f"https://localhost:{variables['HTTPS_PORT']}"
            wait_until(lambda: httpx.get(f"{url}/readyz", verify=False).status_code == 200, lambda: compose("logs"))
            yield url, compose
        except Exception:
            print(compose("logs", "--tail", "200"))
            raise
        finally:
            compose("down", "--volumes", "--timeout", "15")

    return start


@pytest.mark.parametrize("starter", CHOICES["starter"])
def test_compose_keeps_containers_read_only(starter: str, tmp_path: Path) -> None:
    project = generate(tmp_path, project_name="wiki", starter=starter, database="postgresql")
    services = yaml.safe_load((project.path / "compose.yaml").read_text())["services"]
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {"migrate", "web"} | ({"worker", "checker"} if starter == "live" else set())
    assert {name: (service["read_only"], service["tmpfs"]) for name, service in ours.items()} == dict.fromkeys(
        ours, (True, ["/tmp"])
    )


def check_limits(docker: Docker, compose: Compose) -> None:
    """The running containers have the limits of compose.yaml."""
    show = "{{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"
    everything = compose("ps", "--all", "--quiet").split()
    limits = docker("inspect", "--format", show, *everything).splitlines()
    assert limits == ["[ALL] [no-new-privileges:true] 1073741824 500"] * len(everything)
    containers = compose("ps", "--all", "--quiet", "web", "migrate").split()
    assert len(containers) == 3
    assert docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", *containers).split() == ["true"] * 3
    with pytest.raises(AssertionError, match="Read-only file system"):
        compose("exec", "-T", "web", "touch", "/app/x")


@on_servers("gunicorn")
def test_wiki_stack(server: str, run_stack: RunStack, docker: Docker, tmp_path: Path) -> None:
    with (
        run_stack(server=server, starter="wiki", database="postgresql") as (url, compose),
        httpx.Client(base_url=url, verify=False) as client,
    ):
        check_limits(docker, compose)
        assert "Python" in client.get("/wiki/python").text
        login = client.get("/accounts/login/")
        assert "secure" in login.headers["set-cookie"].lower()
        save = (
            "from django.core.files.base import ContentFile; from django.core.files.storage import default_storage\n"
            "from encyclopedia import util; util.save_entry('New', 'kept')\n"
            "for name in ('photo.PNG', 'page.html'): default_storage.save(f'new/{name}', ContentFile('uploaded'))"
        )
        compose("exec", "-T", "web", "python", "manage.py", "shell", "--command", save)
        compose("up", "--detach", "--force-recreate", "--no-deps", "--scale", "web=2", "web")
        wait_until(lambda: client.get("/wiki/new").status_code == 200, lambda: compose("logs"))
        for name, disposition in {"photo.PNG": None, "page.html": "attachment"}.items():
            file = client.get(f"/media/new/{name}")
            assert (file.text, file.headers.get("content-disposition")) == ("uploaded", disposition)
            assert file.headers["content-security-policy"] == "default-src 'none'; sandbox"
            assert file.headers["x-content-type-options"] == "nosniff"
        assert client.get("/media/new/").status_code == 404
        assert compose("logs", "migrate").count("Applying accounts.0001_initial... OK") == 1
        check_behind_another_proxy(compose, tmp_path / "wiki" / "compose.override.yaml")


def check_behind_another_proxy(compose: Compose, override: Path) -> None:
    """Without Caddy, as docs/how-to/deploying.md says: what arrives by HTTP from a proxy with HTTPS is not redirected."""
    port = free_port()
    override.write_text(code_blocks("deploying.md", "yaml")[0].replace("127.0.0.1:8000:", f"127.0.0.1:{port}:"))
    compose("down", "--timeout", "15")
    compose("up", "--build", "--detach", "web")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, lambda: compose("logs"))
    for protocol in ("https", "https,http"):
        headers = {"Host": "localhost", "X-Forwarded-Proto": protocol, "X-Forwarded-For": "198.51.100.7"}
        assert httpx.get(f"{url}/wiki/new", headers=headers).status_code == 200


@on_servers("hypercorn")
def test_chat_stack(server: str, run_stack: RunStack) -> None:
    with run_stack(server=server, starter="chat", database="postgresql") as (url, compose):
        asyncio.run(exchange_messages(url))
        ping = ("exec", "-T", "-e", "REDISCLI_AUTH=", "redis", "redis-cli", "ping")
        assert "NOAUTH" in compose(*ping)
        for number in (1, 2):
            logs = compose("logs", "web")
            assert re.search(rf"web_{number}|web-{number}", logs), "both web containers run"


async def exchange_messages(url: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    socket_url = url.replace("https", "wss") + "/ws/chat/lobby/"
    members = [await connect(socket_url, origin=Origin(url), ssl=context) for _ in range(6)]
    for member in members:
        await member.send('{"message": "hello"}')
    for member in members:
        ids = [json.loads(await asyncio.wait_for(member.recv(), 20))["id"] for _ in members]
        assert ids == sorted(set(ids))
    for member in members:
        await member.close()


@on_servers("granian")
def test_live_stack(server: str, run_stack: RunStack) -> None:
    with run_stack(server=server, starter="live", database="postgresql") as (url, compose):
        add = "Service.objects.create(name='site', url='http://web:8000/livez')"
        command = f"from status.models import Service; {add}"
        compose("exec", "-T", "web", "python", "manage.py", "shell", "--command", command)
        with httpx.Client(base_url=url, verify=False, timeout=60) as client:
            with client.stream("GET", "/events/?after=0") as response:
                line = next(line for line in response.iter_lines() if line.startswith("data: "))
            assert json.loads(line.removeprefix("data: "))["state"] == "up"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry of images."""
    program = shutil.which("docker-registry")
    if program is None:
        reason = "docker-registry is not installed"
        if IN_CI and sys.platform == "linux":
            pytest.fail(reason)
        pytest.skip(reason)
    address = f"127.0.0.1:{free_port()}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    configuration = {"version": "0.1", "storage": storage, "http": {"addr": address}}
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(configuration))
    with (tmp_path / "registry.log").open("w") as log:
        process = subprocess.Popen([program, "serve", tmp_path / "registry.yml"], stdout=log, stderr=log)
    try:
        url = f"http://{address}/v2/"
        wait_until(lambda: httpx.get(url).status_code == 200, (tmp_path / "registry.log").read_text)
        yield address
    finally:
        process.kill()
        process.wait()


IMAGE_NAMES = re.compile(r"^(?:FROM| *image:) (\S+:\S+)", re.MULTILINE)


def test_pinned_images(run_stack: RunStack, docker: Docker, registry: str) -> None:
    """The command in docs/how-to/deploying.md pins each image to a digest, and the stack starts with these."""
    pins = code_blocks("deploying.md", "sh")[0]
    pinned: list[str] = []

    def pin(project: Project) -> None:
        files = [project.path / "Dockerfile", project.path / "compose.yaml"]
        names = {name for file in files for name in IMAGE_NAMES.findall(file.read_text())}
        assert {re.split("[/:]", name)[-2] for name in names} == {"python", "uv", "caddy", "redis"}
        for file in files:  # the same names, in a registry that can be asked here
            file.write_text(
                IMAGE_NAMES.sub(lambda found: found[0].replace(found[1], f"{registry}/{found[1]}"), file.read_text())
            )
        before = [file.read_text() for file in files]
        refused = subprocess.run(["sh", "-c", pins], cwd=project.path, capture_output=True, text=True, check=False)
        assert (refused.returncode != 0, [file.read_text() for file in files]) == (True, before), refused.stderr

        manifests = {f"{registry}/{name}": push(docker, name, f"{registry}/{name}") for name in names}
        digests = {image: put_index(image, manifest, "amd64", "arm64") for image, manifest in manifests.items()}
        run_commands(pins, project.path)
        after = [file.read_text() for file in files]
        expected = [IMAGE_NAMES.sub(lambda found: f"{found[0]}@{digests[found[1]]}", text) for text in before]
        assert after == expected
        assert not list(project.path.glob("*.bak"))
        check_dockerfile(project)
        for image, manifest in manifests.items():  # the tag moves on
            assert put_index(image, manifest, "arm64", "amd64") != digests[image]
        run_commands(pins, project.path)
        assert [file.read_text() for file in files] == after
        pinned.extend(IMAGE_NAMES.findall(after[1]))

    try:
        with run_stack(prepare=pin, server="daphne", starter="chat") as (_, compose):
            used = docker("inspect", "--format", "{{.Config.Image}}", *compose("ps", "--quiet").split()).split()
            assert len(pinned) == 2
            assert set(pinned) < set(used)
    finally:
        own = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}", "--digests")
        docker("image", "rm", "--force", *{name for name in own.split() if name.startswith(registry)}, check=False)


def push(docker: Docker, name: str, image: str) -> dict[str, str | int]:
    """Push an image under another name, and return what an index of several platforms says of it."""
    if "No such image" in docker("image", "inspect", name, check=False):
        docker("pull", name)
    docker("tag", name, image)
    docker("push", image)
    types = ("vnd.docker.distribution.manifest.v2+json", "vnd.oci.image.manifest.v1+json")
    accept = ", ".join(f"application/{each}" for each in types)
    manifest = httpx.get(manifest_url(image), headers={"Accept": accept}).raise_for_status()
    return {
        "mediaType": manifest.headers["Content-Type"],
        "digest": manifest.headers["Docker-Content-Digest"],
        "size": len(manifest.content),
    }


def put_index(image: str, manifest: dict[str, str | int], *platforms: str) -> str:
    """Make the tag one of an image for these platforms, as those of public images are, and return its digest."""
    media_type = "application/vnd.docker.distribution.manifest.list.v2+json"
    manifests = [manifest | {"platform": {"os": "linux", "architecture": platform}} for platform in platforms]
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})
    response = httpx.put(manifest_url(image), content=index, headers={"Content-Type": media_type})
    digest: str = response.raise_for_status().headers["Docker-Content-Digest"]
    return digest


def manifest_url(image: str) -> str:
    registry, repository, tag = re.findall("^(.+?)/(.+):(.+)$", image)[0]
    return f"http://{registry}/v2/{repository}/manifests/{tag}"
