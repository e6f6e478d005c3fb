"""Reject a package that the core cannot be written to, before anything is written."""

import json
import os
import sys
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
PACKAGE = ANSWERS["package"]


def package_error(folder: Path) -> str | None:
    """Return why the core cannot be written to the package in this folder, or None if it can."""
    if not PACKAGE.isidentifier():
        return "that is not the name of a package. Enter a name such as mysite."
    if not (folder / PACKAGE).is_dir():
        return f"there is no {PACKAGE} in {folder}. Run this in the folder that contains the package."
    if not (folder / PACKAGE / "asgi.py").is_file():
        return f"there is no {PACKAGE}/asgi.py. If the package contains the settings, create this file as startproject does."
    for name in ("serving", "serving.py"):
        if os.path.lexists(folder / PACKAGE / name):
            return f"{PACKAGE}/{name} already exists, and is not overwritten. To update the core, remove it first."
    return None


# The hook runs in a folder beside the package.
new = Path.cwd()
if error := package_error(new.parent):
    sys.exit(f"package {PACKAGE[:80]!r} cannot be used: {error}")
if "_repo_dir" not in ANSWERS:
    sys.exit("cruft cannot generate the core, since it could not update the core later. Use cookiecutter instead.")
if any(new.iterdir()):
    sys.exit(f"{new} is not empty, and is not overwritten. Move it away.")
