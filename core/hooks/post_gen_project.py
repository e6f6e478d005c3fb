"""Write the ASGI core, from the same files as in generated projects, into the package of an existing project."""

import json
import os
import shutil
import sys
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
PROJECT = "{{ '{{cookiecutter.project_slug}}' }}"
# A relative path to the template starts at cookiecutter's working directory, which is the output folder by default.
SOURCE = Path(ANSWERS["_output_dir"], ANSWERS["_repo_dir"]).resolve().parent / PROJECT / PROJECT / "serving"
CORE_FILES = (
    "__init__.py",
    "apps.py",
    "asgi_types.py",
    "checks.py",
    "conf.py",
    "database.py",
    "deferred_calls.py",
    "handler.py",
    "lifespan.py",
    "middleware.py",
    "streams.py",
    "threads.py",
)


def main() -> None:
    new, package = Path.cwd(), ANSWERS["package"]
    if not SOURCE.is_dir():
        sys.exit(f"There is no core in {SOURCE}. Pass the absolute path of the template, or omit --output-dir.")
    (new / "README").unlink()
    for name in CORE_FILES:
        shutil.copyfile(SOURCE / name, new / name)
    os.chdir(new.parent)
    serving = Path(package, "serving")
    serving.mkdir()
    for name in CORE_FILES:
        (new / name).rename(serving / name)
    try:
        new.rmdir()
    except PermissionError:  # on Windows, where it is the working directory of the shell that runs this
        print(f"Remove the empty folder {new.name}: Windows keeps it until this command has ended.")
    print(
        f"\nThe ASGI core is in {package}/serving. It needs Python 3.11, Django 5.2 and asgiref 3.13, or newer."
        f"\nIn {package}/asgi.py, replace\n"
        "\n  from django.core.asgi import get_asgi_application\n"
        "\nwith\n"
        "\n  from .serving.handler import get_asgi_application\n"
    )


main()
