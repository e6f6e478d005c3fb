"""Refuse a package that the core cannot be written to. Nothing has been written yet."""

import json
import sys
from pathlib import Path

PACKAGE = json.loads(r"""{{ cookiecutter | jsonify }}""")["package"]


def package_error(folder: Path) -> str | None:
    if not (folder / "asgi.py").is_file():
        return f"there is no {PACKAGE}/asgi.py here. Run this in the folder that holds the package."
    if (folder / "serving").exists():
        return f"there is a {PACKAGE}/serving already, which is not overwritten. To update it, remove it first."
    return None


# The hook runs in a folder beside the package.
if error := package_error(Path.cwd().parent / PACKAGE):
    sys.exit(f"package {PACKAGE!r} cannot be used: {error}")
