"""The reference in docs/reference/ says what the code does, and leaves nothing out."""

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from scripts import reference
from tests.template import PROJECT_TEMPLATE, ROOT, page_text

# Settings of libraries, which their own documentation describes.
LIBRARY_SETTINGS = re.compile("AXES_|CHANNEL_LAYERS|CONTENT_SECURITY_POLICY|SECURE_CSP|TASKS|MAILERS|ASGI_APPLICATION")
# Django has no default for the first two, and the third is a name that its own template has.
DOCUMENTED_BY_DJANGO = {"ROOT_URLCONF", "EMAIL_FILE_PATH", "BASE_DIR"}


def test_pages_follow_from_the_code(tmp_path: Path) -> None:
    reference.write_pages(tmp_path)
    for page in sorted(tmp_path.iterdir()):
        assert page_text(page.name) == page.read_text(encoding="utf-8"), f"{page.name}: run `make docs` and commit it"


def test_each_setting_is_explained(environments: Callable[[str], Path]) -> None:
    """Django's own settings and those of libraries have their own documentation; all others are on the page."""
    known = set()
    for version in ("5.2", "6.1"):
        code = "from django.conf import global_settings; print(*dir(global_settings))"
        known |= set(subprocess.check_output([environments(version), "-c", code], text=True).split())
    assigned = {
        target.id
        for answers in reference.all_answers()
        for node in ast.walk(ast.parse(reference.render(reference.PACKAGE / "settings.py", answers)))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    }
    ours = {name for name in assigned - known - DOCUMENTED_BY_DJANGO if not LIBRARY_SETTINGS.match(name)}
    assert ours >= {"SITE_NAME", "SECURITY_HEADERS"}
    explained = set(reference.SETTINGS) | set(re.findall("^### `(.+)`", page_text("variables.md"), re.MULTILINE))
    assert ours - explained == set(), "scripts/reference.py: SETTINGS"


def test_variables_of_compose_are_explained() -> None:
    files = [PROJECT_TEMPLATE / name for name in ("compose.yaml", "Caddyfile")]
    names = {name for file in files for name in re.findall(r"\{\$?([A-Z_]{3,})", file.read_text(encoding="utf-8"))}
    assert "SITE_ADDRESS" in names
    page = page_text("variables.md")
    assert [name for name in names if f"`{name}`" not in page] == []


def test_files_page_names_each_file() -> None:
    """But for the modules of serving/, which serving.md has, and the starters' apps."""
    files = set()
    for path in filter(Path.is_file, PROJECT_TEMPLATE.rglob("*")):
        parts = path.relative_to(PROJECT_TEMPLATE).parts
        if parts[0] == "_parts":
            if parts[1] == "starters" and (len(parts) < 4 or not parts[3].startswith("{{")):
                continue  # their apps
            parts = parts[3:]
        if "serving" not in parts and path.name != "__init__.py":
            files.add("/".join(parts).replace("{{cookiecutter.project_slug}}", "wiki"))
    named = set(re.findall(r"^\| `(.+?)` \|", page_text("files.md"), re.MULTILINE))
    assert files - named == set()
    assert named - files == {"uv.lock", ".env"}  # which the hook writes


def test_template_page_names_each_file() -> None:
    page = page_text("template.md")
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    entries = {f"{name.partition('/')[0]}/" if "/" in name else name for name in tracked}
    entries |= {name for name in tracked if "hooks/" in name or name.startswith("scripts/")}
    entries -= {"hooks/", "scripts/", ".ci/"}  # whose files it names
    assert [name for name in sorted(entries) if f"`{name}" not in page] == []
