"""cookiecutter's other options, and failures of the machine: no partial project is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.template import IN_CI, ROOT, generate

posix = pytest.mark.skipif(os.name == "nt", reason="signals, mounts and file systems of POSIX")


class Cookiecutter:
    """Runs cookiecutter as a user does, with its own home directory; `output` is where it generates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "output"
        self.output.mkdir()
        (folder / "home").mkdir()

    def start(self, *arguments: str, output: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cookiecutter", *arguments, "--output-dir", str(output or self.output)]
        home = str(self.folder / "home")
        return subprocess.Popen(
            command,
            env={**os.environ, "PATH": "", "HOME": home, "USERPROFILE": home, **variables},
            cwd=self.folder,
            start_new_session=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __call__(self, *arguments: str, output: Path | None = None, **variables: str) -> tuple[int, str]:
        """The exit status and what a user sees."""
        process = self.start(*arguments, output=output, **variables)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said


@pytest.fixture
def cookiecutter(tmp_path: Path) -> Cookiecutter:
    return Cookiecutter(tmp_path)


def read(project: Path, path: str) -> str:
    return (project / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("answer", ["server=nginx", "starter=blog", "channels=maybe", "django_version=4.2"])
def test_unknown_answers(answer: str, cookiecutter: Cookiecutter) -> None:
    status, said = cookiecutter("--no-input", str(ROOT), answer)
    question, value = answer.split("=")
    assert status != 0
    possible = r"could not be converted to a boolean" if question == "channels" else r"the choices are \[.+\]"
    assert re.search(rf"{value} provided for (choice )?variable {question},? .*{possible}", said)
    assert list(cookiecutter.output.iterdir()) == []


def test_replay(cookiecutter: Cookiecutter) -> None:
    """Replays the last answers, and those of a file; a file with an unknown answer is rejected."""
    answers = ["project_name=Käse & Brot", "server=granian", "starter=chat", "database=postgresql"]
    status, said = cookiecutter("--no-input", str(ROOT), *answers)
    assert status == 0, said
    first = cookiecutter.output / "kase_brot"
    again = cookiecutter.output.parent / "again"
    status, said = cookiecutter("--replay", str(ROOT), output=again)
    assert status == 0, said
    files, others = (
        {path.relative_to(project): path.read_bytes() for path in project.rglob("*") if path.is_file()}
        for project in (first, again / "kase_brot")
    )
    assert files.pop(Path(".env")) != others.pop(Path(".env"))
    assert files == others

    [file] = Path(cookiecutter.output.parent, "home", ".cookiecutter_replay").iterdir()
    context = json.loads(file.read_text())
    context["cookiecutter"]["server"] = "nginx"
    context["cookiecutter"]["_repo_dir"] = str(ROOT)
    edited = cookiecutter.output.parent / "edited.json"
    edited.write_text(json.dumps(context))
    status, said = cookiecutter("--replay-file", str(edited), str(ROOT), output=again / "more")
    assert status != 0
    assert "server 'nginx' cannot be used: the choices are uvicorn, daphne, hypercorn, gunicorn, granian." in said
    assert list((again / "more").iterdir()) == []

    context["cookiecutter"] |= {"server": "granian", "project_slug": "test"}
    edited.write_text(json.dumps(context))
    status, said = cookiecutter("--replay-file", str(edited), str(ROOT), output=again / "more")
    assert status != 0
    assert "project_slug 'test' cannot be used: " in said
    assert list((again / "more").iterdir()) == []
    context["cookiecutter"]["project_slug"] = "kase_brot"

    # A replayed answer was typed at the prompt, so cookiecutter does not render it.
    context["cookiecutter"]["project_name"] = "{{ 7 * 7 }}"
    edited.write_text(json.dumps(context))
    status, said = cookiecutter("--replay-file", str(edited), str(ROOT), output=again / "more")
    assert status == 0, said
    assert 'SITE_NAME = "{{ 7 * 7 }}"' in read(again / "more" / "kase_brot", "kase_brot/settings.py")


def test_defaults_of_the_user(cookiecutter: Cookiecutter) -> None:
    """~/.cookiecutterrc changes defaults, the command line takes precedence over it, and unknown answers are ignored."""
    config = cookiecutter.output.parent / "home" / ".cookiecutterrc"
    config.write_text(
        'default_context:\n  project_name: "From home"\n  server: granian\n  ci: jenkins\n  author: Ada\n'
    )
    status, said = cookiecutter("--no-input", str(ROOT), "server=daphne", COOKIECUTTER_CONFIG=str(config))
    assert status == 0, said
    project = cookiecutter.output / "from_home"
    assert "exec daphne from_home.asgi" in read(project, "Procfile")
    assert (project / ".github").exists()


def test_overwrite_if_exists(cookiecutter: Cookiecutter) -> None:
    """Without the option an existing folder stays unchanged; with it, files that are not the template's do."""
    assert cookiecutter("--no-input", str(ROOT))[0] == 0
    project = cookiecutter.output / "my_site"
    key = read(project, ".env")
    (project / "notes.txt").write_text("mine")
    (project / "Procfile").write_text("mine, too")
    status, said = cookiecutter("--no-input", str(ROOT), "server=granian")
    assert status != 0
    assert "already exists" in said
    assert read(project, "Procfile") == "mine, too"
    status, said = cookiecutter("--no-input", "--overwrite-if-exists", str(ROOT), "server=granian")
    assert status == 0, said
    assert "exec granian" in read(project, "Procfile")
    assert read(project, "notes.txt") == "mine"
    assert read(project, ".env") == key, "sessions would end"
    assert not (project / "_parts").exists()
    status, said = cookiecutter(
        "--no-input", "--overwrite-if-exists", str(ROOT), "project_slug=my_site", "project_name= "
    )
    assert status != 0
    assert read(project, "notes.txt") == "mine"


def test_output_folder_with_spaces_and_other_letters(cookiecutter: Cookiecutter) -> None:
    folder = cookiecutter.output / "with spaces, ünd 東京 & 'quotes'"
    status, said = cookiecutter("--no-input", str(ROOT), output=folder)
    assert status == 0, said
    assert {path.name for path in folder.iterdir()} == {"my_site"}


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        in_our_ci = IN_CI and sys.platform == "linux" and os.geteuid() == 0
        pytest.fail("cannot mount") if in_our_ci else pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@posix
def test_full_disk(cookiecutter: Cookiecutter, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=1m") as folder:
        status, said = cookiecutter("--no-input", str(ROOT), output=folder)
        assert status != 0
        assert f"There is not enough disk space in {folder}: less than 5 MB are free." in said
        assert list(folder.iterdir()) == []


@posix
def test_read_only_folder(cookiecutter: Cookiecutter, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=10m,ro") as folder:
        status, said = cookiecutter("--no-input", str(ROOT), output=folder)
        assert status != 0
        assert "Read-only file system" in said or "Unable to create directory" in said
        assert list(folder.iterdir()) == []


@posix
@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted(overwrite: bool, cookiecutter: Cookiecutter, tmp_path: Path) -> None:
    """Ctrl-C while uv locks the dependencies."""
    project = cookiecutter.output / "my_site"
    if overwrite:
        project.mkdir()
        (project / "notes.txt").write_text("mine")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(f"#!/bin/sh\ntouch {tmp_path}/locking\nexec /bin/sleep 60\n")
    (tools / "uv").chmod(0o755)
    options = ["--overwrite-if-exists"] * overwrite
    process = cookiecutter.start("--no-input", *options, str(ROOT), PATH=str(tools) + ":/usr/bin:/bin")
    deadline = time.monotonic() + 30
    while not (tmp_path / "locking").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    if overwrite:
        assert "is incomplete" in said
        assert read(project, "notes.txt") == "mine"
    else:
        deadline = time.monotonic() + 10
        while project.exists():
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        assert list(cookiecutter.output.iterdir()) == []


@posix
def test_line_endings(tmp_path: Path) -> None:
    """Files that a shell reads in a Linux container have LF, whatever git does on Windows."""
    project = generate(tmp_path, project_name="wiki")
    attributes = read(project.path, ".gitattributes")
    for path in ("Procfile", "Dockerfile", "compose.yaml", "manage.py", ".env.example"):
        assert b"\r" not in (project.path / path).read_bytes()
    subprocess.run(["git", "init", "--quiet", project.path], check=True)
    listed = subprocess.run(
        ["git", "-C", project.path, "check-attr", "eol", "Procfile", "Dockerfile", "manage.py"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.count("eol: lf") == 3, attributes
