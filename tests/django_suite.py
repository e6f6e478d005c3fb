"""Run Django's own tests, with the project's classes in place of Django's if a project is given.

    python django_suite.py TESTS [PROJECT] -- LABEL…

TESTS is the folder `tests` of Django's source archive, PROJECT the folder of a generated project.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


def replace_classes(slug: str) -> None:
    """Replace Django's classes before any test module is imported, so that each imports the project's."""
    ours = importlib.import_module(f"{slug}.serving.middleware")
    for path in MIDDLEWARE:
        module, name = path.rsplit(".", 1)
        replacement = ours.import_async_middleware(path)
        assert issubclass(replacement, ours.AsyncMiddlewareMixin)
        setattr(importlib.import_module(module), name, replacement)
    # These paths now lead to classes with their mixin, which the handler would add again.
    ours.ASYNC_MIXINS.clear()
    handler = importlib.import_module(f"{slug}.serving.handler").ASGIHandler
    # Django's ASGIStaticFilesHandler, which inherits from this one here, does not call the constructor that sets it.
    handler.pool = importlib.import_module(f"{slug}.serving.threads").ThreadPool()
    for module_path in ("django.core.handlers.asgi", "django.core.asgi"):
        vars(importlib.import_module(module_path))["ASGIHandler"] = handler


def main() -> None:
    arguments, labels = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    tests = Path(arguments[0]).resolve()
    project = Path(arguments[1]).resolve() if len(arguments) > 1 else None
    sys.path[:0] = [str(tests), str(tests.parent)]
    os.chdir(tests)

    import runtests

    if project:
        sys.path.append(str(project))
        setup = runtests.setup_run_tests

        def setup_with_project(*args: Any, **kwargs: Any) -> Any:
            result = setup(*args, **kwargs)
            replace_classes(project.name)
            return result

        runtests.setup_run_tests = setup_with_project

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "test_sqlite")
    os.environ["TMPDIR"] = tempfile.mkdtemp()
    options = {"verbosity": 1, "interactive": False, "failfast": False, "keepdb": False, "reverse": False}
    failures = runtests.django_tests(
        **options,
        test_labels=labels,
        debug_sql=False,
        parallel=1,
        tags=None,
        exclude_tags=None,
        test_name_patterns=None,
        start_at=None,
        start_after=None,
        pdb=False,
        buffer=False,
        timing=False,
        shuffle=None,
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
