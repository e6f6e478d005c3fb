"""Run Django's checks in projects and request their pages: reads folders line by line, writes JSON line by line.

Importing Django takes most of the time, so it is done once, and each project gets a fork of this process.
"""

import json
import os
import sys
from io import StringIO
from pathlib import Path

import django
import django.core.management.commands.check
import django.db.models
import django.forms
import django.test.client
import django.views.debug


def inspect(folder: str) -> dict[str, object]:
    """Return the output of the checks, and the pages: {"checks": …, "site_name": …, "pages": {path: text}}."""
    path = Path(folder)
    os.chdir(path)
    sys.path.insert(0, str(path))
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{path.name}.settings"
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    said = StringIO()
    call_command("check", stdout=said, stderr=said)
    client = django.test.client.Client(headers={"host": "localhost"})
    # The home pages of the other starters query the database, which does not exist.
    paths = ["/accounts/login/"] + ["/"] * (path / "pages").is_dir() + ["/"] * (path / "encyclopedia").is_dir()
    pages = {path: client.get(path).content.decode() for path in paths}
    return {"checks": said.getvalue(), "site_name": settings.SITE_NAME, "pages": pages}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for the logs of the projects
    for line in sys.stdin:
        if os.fork() == 0:
            print(json.dumps(inspect(json.loads(line))), file=answers, flush=True)
            os._exit(0)
        _, status = os.wait()
        if status:
            print(json.dumps({"failed": status}), file=answers, flush=True)


if __name__ == "__main__":
    main()
