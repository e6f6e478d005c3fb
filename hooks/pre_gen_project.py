"""Reject answers that cannot work, before anything is generated.

cookiecutter creates a folder named after the slug before it runs this hook. `__folder` in cookiecutter.json replaces a slug
such as ../up, which would create it elsewhere; `__slug` holds the answer itself.
"""

import json
import keyword
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ANSWERS: dict[str, Any] = json.loads(r"""{{ cookiecutter | jsonify }}""")
# Answers from the command line and the user's configuration, before cookiecutter rendered them.
RAW_ANSWERS: dict[str, Any] = json.loads(r"""{{ (_cookiecutter if _cookiecutter is defined else {}) | jsonify }}""")
MIN_FREE_BYTES = 5_000_000  # several times the size of a project

# Top-level modules of generated projects, their dependencies and their tools. A test compares this list with the
# packages that are installed for each combination of answers.
RESERVED_NAMES = """
    accounts annotated_doc annotated_types anyio asgi asgiref ast_serialize async_timeout attr attrs autobahn
    automat axes blib2to3 boto3 botocore brotli build cbor2 cffi channels channels_redis chat click compose conftest
    constantly cryptography csp daphne dateutil deploy dj_database_url dj_email_url django django_redis django_stubs_ext django_tasks
    django_tasks_db django_tenants django_valkey docs dotenv encyclopedia entries environs execnet
    fastapi google granian gunicorn h11 h2 hpack httpcore2 httptools httpx httpx2 hypercorn hyperframe
    hyperlink idna incremental iniconfig jmespath librt main manage markdown2 markdown_it marshmallow mdurl media msgpack multipart mypy
    mypy_django_plugin mypy_extensions mypyc nh3 openssl opentelemetry packaging pages pathspec pluggy
    priority psycopg psycopg_binary psycopg_pool py pyasn1 pyasn1_modules pycparser pydantic pydantic_core
    pygments pytest pytest_asyncio pytest_django python_dotenv pythonjsonlogger redis ruff s3transfer servestatic
    service_identity settings six sniffio sqlparse starlette static staticfiles status storages templates test
    tests truststore twisted txaio typing_extensions typing_inspection tzdata ujson urllib3 urls uv uvicorn
    uvicorn_worker uvloop valkey venv watchfiles websockets wsgi wsproto xdist yaml zope
""".split()  # noqa: SIM905 (a list would have a hundred lines)


def slug_error(slug: str) -> str | None:
    """Return why the slug cannot be a project's package, or None if it can."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", slug):
        return "use lower-case letters a-z, digits and underscores, beginning with a letter and not ending with _"
    if len(slug) > 30:
        return "it is longer than 30 characters"
    if keyword.iskeyword(slug) or keyword.issoftkeyword(slug):
        return "it is a Python keyword"
    if slug in sys.stdlib_module_names:
        return "it would shadow the module of that name in Python's standard library"
    if slug in RESERVED_NAMES:
        return "that name is used by the project itself or by a package that it needs"
    if slug in ("aux", "con", "nul", "prn"):
        return "Windows allows no folder of that name"
    return None


def name_error(name: str, raw_name: str) -> str | None:
    """Return why `name`, which cookiecutter rendered from `raw_name`, cannot be the site's name, or None if it can."""
    # The order of the characters matters: this file is a template, too.
    if re.search("{[#%{]", raw_name) and name != raw_name:
        return (
            f"cookiecutter rendered {raw_name[:80]!r}, from the command line or your configuration, as a template; leave it out "
            "there, and type it at the prompt"
        )
    if not name.strip():
        return "it is blank"
    if re.search("[\ud800-\udfff\0]", name):
        return "it contains invalid characters"
    return None


def choice_error() -> str | None:
    """Return a sentence about an answer that is not among its question's choices, as a file for --replay may have, or None."""
    questions = Path(ANSWERS.get("_repo_dir", ""), "cookiecutter.json")
    if not questions.is_file():
        return None
    for question, choices in json.loads(questions.read_text(encoding="utf-8")).items():
        if isinstance(choices, list) and not question.startswith("_") and ANSWERS[question] not in choices:
            return f"{question} {ANSWERS[question]!r} cannot be used: the choices are {', '.join(choices)}."
    return None


def find_symbolic_link(slug: str) -> Path | None:
    """Return a path that the template writes and that is a symbolic link in an existing folder, or None."""
    repository = Path(ANSWERS.get("_repo_dir", ""))
    written = {Path(".env"), Path("uv.lock"), Path("_parts")}
    # This file is rendered, so it cannot name the folder as the template does.
    for source in repository.glob("*cookiecutter.project_slug*/**/*"):
        parts = [slug if "project_slug" in part else part for part in source.relative_to(repository).parts[1:]]
        written.add(Path(*(parts[3:] if parts[0] == "_parts" else parts)))
    return next((path for path in sorted(written) if path.is_symlink()), None)


def main() -> None:
    slug, name = ANSWERS.get("__slug", ANSWERS["project_slug"]), ANSWERS["project_name"]
    if reason := name_error(name, RAW_ANSWERS.get("project_name", name)):
        sys.exit(f"project_name {name[:80]!r} cannot be used: {reason}.")
    if reason := slug_error(slug):
        sys.exit(f"project_slug {slug[:80]!r} cannot be used: {reason}.")
    if sentence := choice_error():
        sys.exit(sentence)
    if shutil.disk_usage(".").free < MIN_FREE_BYTES:
        sys.exit(
            f"There is not enough disk space in {Path.cwd().parent}: less than {MIN_FREE_BYTES // 1_000_000} MB are free."
        )
    if link := find_symbolic_link(slug):
        sys.exit(
            f"{link} is a symbolic link, and a file would be written through it. Move it away, or generate into another folder."
        )
    if any(Path().iterdir()):
        # For --overwrite-if-exists: post_gen_project.py must not delete what it did not generate.
        Path("_parts").mkdir(exist_ok=True)
        Path("_parts", "OVERWRITTEN").touch()


if __name__ == "__main__":
    main()
