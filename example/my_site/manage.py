#!/usr/bin/env python
"""Django's command-line utility: `python manage.py help` lists its commands."""

import os
import sys
from pathlib import Path


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "my_site.settings")
    try:
        from django.core.management import execute_from_command_line

        from my_site.env import make_env_file
    except ModuleNotFoundError as error:
        sys.exit(
            f"{error.name} is not installed. Use `uv run` instead of `python`, "
            "or run `pip install .` first."
        )
    if sys.argv[1:2] == ["runserver"]:  # never used in production
        make_env_file(Path(__file__).with_name(".env"))
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
