"""Run Django's own tests, with the project's classes in the place of Django's if a project is given.

    python django_suite.py TESTS [PROJECT] -- LABEL…

TESTS is the folder `tests` of Django's source archive, PROJECT the folder of a generated project.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


def put_in_place(slug):
    """Before any test module is imported: each of them then finds the project's class under Django's name."""
    ours = importlib.import_module(f"{slug}.serving.middleware")
    for path in MIDDLEWARE:
        module, name = path.rsplit(".", 1)
        replacement = ours.import_async_middleware(path)
        assert issubclass(replacement, ours.AsyncMiddlewareMixin)
        setattr(importlib.import_module(module), name, replacement)
    handler = importlib.import_module(f"{slug}.serving.handler").ASGIHandler
    for module in ("django.core.handlers.asgi", "django.core.asgi"):
        importlib.import_module(module).ASGIHandler = handler


def main():
    arguments, labels = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    tests = Path(arguments[0]).resolve()
    project = Path(arguments[1]).resolve() if len(arguments) > 1 else None
    sys.path[:0] = [str(tests), str(tests.parent)]
    os.chdir(tests)

    import runtests

    if project:
        sys.path.append(str(project))
        setup = runtests.setup_run_tests

        def setup_with_project(*args, **kwargs):
            result = setup(*args, **kwargs)
            put_in_place(project.name)
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
