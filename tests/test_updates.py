"""Projects from a URL, a tag, a zip file or a folder, and projects that follow the template."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Protocol

import pytest
import yaml

from tests.template import ROOT, also_in_test_all, code_blocks, edit, run_commands

TOOLS = Path(sys.executable).parent


class Git(Protocol):
    def __call__(self, folder: Path, *arguments: str) -> str: ...


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """`git(folder, *arguments)`, without the configuration of this machine."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "ada@example.com")
    monkeypatch.setenv("UV_CACHE_DIR", os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # The URL that the pages name is that of the copy.
    (tmp_path / "gitconfig").write_text(f'[url "file://{tmp_path}/"]\n    insteadOf = https://github.com/ORG/\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    # Without uv, which would lock the dependencies each time.
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "/bin"]))

    def run(folder: Path, *arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
        return result.stdout

    return run


@pytest.fixture
def template(git: Git, tmp_path: Path) -> Path:
    """A copy of the template with its own history: one commit, with the tag v1."""
    folder = tmp_path / "cookiecutter-django-asgi"
    for name in subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")[:-1]:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--force", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    git(folder, "tag", "v1")
    return folder


def run(*command: str | Path, cwd: Path) -> None:
    result = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def change_template(template: Path, git: Git) -> None:
    """Change the README, the Procfile and a filter's name, as the next version of the template may."""
    project = template / "{{cookiecutter.project_slug}}"
    edit(project / "README.md", "A Django project that", "A newer Django project that")
    edit(project / "Procfile", "--no-input", "--no-input --verbosity 2")
    for name in ("answer_checks.py", "cookiecutter.json"):
        file = template / name
        file.write_text(file.read_text().replace("check_slug", "require_slug"))
    git(template, "commit", "--quiet", "--all", "--message", "two")


def test_from_url_tag_zip_and_folder(template: Path, git: Git, tmp_path: Path) -> None:
    bare = tmp_path / "template.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(template), str(bare))
    change_template(template, git)
    git(template, "push", "--quiet", str(bare), "main")
    archive = tmp_path / "template.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("template-main/", "")  # as in GitHub's; cookiecutter takes the first entry for the folder
        for path in sorted(template.rglob("*")):
            if ".git" not in path.relative_to(template).parts and path.is_file():
                file.write(path, Path("template-main", path.relative_to(template)))
    sources: dict[str, list[str | Path]] = {
        "url": [f"file://{bare}"],
        "tag": [f"file://{bare}", "--checkout", "v1"],
        "zip": [archive],
        "folder": [template],
    }
    for name, arguments in sources.items():
        output = tmp_path / name
        command = [TOOLS / "cookiecutter", "--no-input", "--output-dir", output, *arguments]
        run(*command, cwd=tmp_path)
        readme = (output / "my_site" / "README.md").read_text()
        assert ("A newer Django project" in readme) == (name != "tag"), name
        assert (output / "my_site" / "manage.py").exists()
        package = output / "mysite"
        package.mkdir()
        (package / "asgi.py").touch()
        run(*command, "--directory", "core", cwd=tmp_path)
        assert (package / "serving" / "handler.py").exists()
        assert not (output / "serving.new").exists()


def test_cruft_is_told_that_it_cannot_write_the_core(template: Path, tmp_path: Path) -> None:
    package = tmp_path / "mysite"
    package.mkdir()
    (package / "asgi.py").touch()
    command = [str(TOOLS / "cruft"), "create", str(template), "--no-input", "--directory", "core"]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert result.returncode != 0
    assert "cruft cannot generate the core" in result.stderr
    assert [path.name for path in package.iterdir()] == ["asgi.py"]
    assert not (tmp_path / "serving.new").exists()


def test_cruft_refuses_a_slug_in_one_sentence(template: Path, tmp_path: Path) -> None:
    command = [
        str(TOOLS / "cruft"),
        "create",
        str(template),
        "--no-input",
        "--extra-context",
        '{"project_slug": "test"}',
    ]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"project_slug 'test' cannot be used: .+; try test_site\.\n", result.stderr), result.stderr
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize("pipeline", ["github", *also_in_test_all("gitlab")])
def test_updating(pipeline: str, template: Path, git: Git, tmp_path: Path) -> None:
    """The commands of the page merge the user's changes and the template's, in one file and in two."""
    install, create, link, update = code_blocks("updating.md", "sh")
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    run_commands(install, tmp_path, environment=os.environ | folders)
    assert (tmp_path / "bin" / "cruft").exists()
    run_commands(create, tmp_path, answers="wiki")
    project = tmp_path / "wiki"
    check_update(project, update, template, git)

    linked = tmp_path / "linked"
    url = "https://github.com/ORG/cookiecutter-django-asgi"
    run(TOOLS / "cookiecutter", "--no-input", "--output-dir", linked, "--checkout", "v1", url, cwd=tmp_path)
    run_commands(link, linked / "my_site")
    git(linked / "my_site", "init", "--quiet")
    git(linked / "my_site", "add", ".")
    git(linked / "my_site", "commit", "--quiet", "--message", "linked")
    check_pull_request(linked / "my_site", pipeline, git)


def check_pull_request(project: Path, pipeline: str, git: Git) -> None:
    """What the page's pipeline pushes, in a clone as it has one, and whom it asks for a review."""
    github, gitlab = code_blocks("updating.md", "yaml")
    remote, clone = project.parent / "remote.git", project.parent / "clone"
    git(project, "clone", "--quiet", "--bare", str(project), str(remote))
    git(remote, "config", "receive.advertisePushOptions", "true")
    # Those are all that a server hears of the merge request.
    hook = remote / "hooks" / "pre-receive"
    hook.write_text(f'#!/bin/sh\necho "$GIT_PUSH_OPTION_0" > {remote}/asked\n')
    hook.chmod(0o755)
    git(project, "clone", "--quiet", "--depth", "1", f"file://{remote}", str(clone))
    calls = remote / "calls"
    programs = {"gh": f'#!/bin/sh\necho "$*" >> {calls}\n', "uvx": f'#!/bin/sh\nexec {TOOLS}/"$@"\n'}
    for name, script in programs.items():
        (remote / name).write_text(script)
        (remote / name).chmod(0o755)
    environment = os.environ | {"PATH": os.pathsep.join([str(remote), os.environ["PATH"]])}
    if pipeline == "github":
        steps = yaml.safe_load(github)["jobs"]["update"]["steps"]
        commands = [step["run"] for step in steps if "run" in step]
    else:
        variables = {"TEMPLATE_TOKEN": "t", "CI_SERVER_HOST": "gitlab.example.com", "CI_PROJECT_PATH": "ada/site"}
        environment |= variables
        git(clone, "config", f"url.{remote}.insteadOf", "https://oauth2:t@gitlab.example.com/ada/site.git")
        commands = yaml.safe_load(gitlab)["update"]["script"]
    run_commands("\n".join(commands), clone, environment=environment)
    assert "A newer Django project" in git(remote, "show", "template:README.md")
    if pipeline == "github":
        assert calls.read_text().splitlines() == ["pr list --head template", "pr create --head template --fill"]
    else:
        assert (remote / "asked").read_text() == "merge_request.create\n"
    git(clone, "switch", "--quiet", "--detach", "HEAD")
    commands.remove("uv lock")  # takes most of the time
    run_commands("\n".join(commands).replace("--create template", "--create again"), clone, environment=environment)
    assert git(remote, "rev-list", "--count", "template") == "2\n", "there was nothing new"


def check_update(project: Path, update: str, template: Path, git: Git) -> None:
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "created")
    secret = (project / ".env").read_text()
    readme, urls = project / "README.md", project / "wiki" / "urls.py"
    readme.write_text(readme.read_text() + "\n## Mine\n\nNotes.\n")
    urls.write_text(urls.read_text() + "\n# mine\n")
    git(project, "commit", "--quiet", "--all", "--message", "mine")
    run_commands("cruft check", project)

    change_template(template, git)
    # `cruft check` fails, as it should: there is something new.
    run_commands(update.replace("cruft check", "! cruft check"), project)
    assert "A newer Django project that uvicorn serves over ASGI" in readme.read_text()
    assert readme.read_text().endswith("## Mine\n\nNotes.\n")
    assert urls.read_text().endswith("# mine\n")
    assert "--verbosity 2" in (project / "Procfile").read_text()
    assert (project / ".env").read_text() == secret
    assert list(project.rglob("*.rej")) == []
    run_commands("cruft check", project)
