"""Write the ASGI core, from the same files as in generated projects, into the package of an existing project."""

import json
import shutil
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
PROJECT = "{{ '{{cookiecutter.project_slug}}' }}"
SOURCE = Path(ANSWERS["_repo_dir"]).resolve().parent / PROJECT / PROJECT / "serving"
CORE_FILES = (
    "__init__.py",
    "apps.py",
    "asgi_types.py",
    "checks.py",
    "conf.py",
    "database.py",
    "deferred_calls.py",
    "handler.py",
    "middleware.py",
    "streams.py",
    "threads.py",
)


def main() -> None:
    new, package = Path.cwd(), ANSWERS["package"]
    (new / "README").unlink()
    for name in CORE_FILES:
        shutil.copyfile(SOURCE / name, new / name)
    new.rename(new.parent / package / "serving")
    print(
        f"\nThe ASGI core is in {package}/serving. It needs Django 5.2 or newer and asgiref 3.13 or newer."
        f"\nIn {package}/asgi.py, replace\n"
        "\n  from django.core.asgi import get_asgi_application\n"
        "\nby\n"
        "\n  from .serving.handler import get_asgi_application\n"
    )


main()
