"""Refuse answers that cannot work, before anything is generated.

cookiecutter makes a folder of the slug's name before it runs this. So that a slug such as ../up makes none elsewhere,
`__folder` in cookiecutter.json puts another in its place; `__slug` is what was answered.
"""

import json
import keyword
import re
import shutil
import sys
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
# The answers of the command line and of the user's configuration as they were, before cookiecutter rendered them.
GIVEN = json.loads(r"""{{ (_cookiecutter if _cookiecutter is defined else {}) | jsonify }}""")
ROOM = 5_000_000  # bytes, several times what a project takes

# Top-level modules that the generated project, its dependencies and its tools bring along. A test compares this
# list with what is really installed for each combination of answers.
TAKEN = """
    accounts annotated_doc annotated_types anyio asgi asgiref ast_serialize async_timeout attr attrs autobahn
    automat axes blib2to3 brotli build cbor2 cffi channels channels_redis chat click compose conftest
    constantly cryptography csp daphne deploy dj_database_url dj_email_url django django_redis django_stubs_ext django_tasks
    django_tasks_db django_tenants django_valkey docs dotenv encyclopedia entries environs execnet
    fastapi google granian gunicorn h11 h2 hpack httpcore2 httptools httpx httpx2 hypercorn hyperframe
    hyperlink idna incremental iniconfig librt main manage markdown2 markdown_it marshmallow mdurl media msgpack multipart mypy
    mypy_django_plugin mypy_extensions mypyc nh3 openssl opentelemetry packaging pages pathspec pluggy
    priority psycopg psycopg_binary psycopg_pool py pyasn1 pyasn1_modules pycparser pydantic pydantic_core
    pygments pytest pytest_asyncio pytest_django python_dotenv pythonjsonlogger redis ruff servestatic
    service_identity settings sniffio sqlparse starlette static staticfiles status templates test
    tests truststore twisted txaio typing_extensions typing_inspection tzdata ujson urls uv uvicorn
    uvicorn_worker uvloop valkey venv watchfiles websockets wsgi wsproto xdist yaml zope
""".split()  # noqa: SIM905 (a list of a hundred lines says no more)


def reason_to_refuse(slug):
    """Why the slug cannot be a project's package, or None if it can."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", slug):
        return "use lower-case letters a-z, digits and underscores, beginning with a letter and not ending with _"
    if len(slug) > 30:
        return "it is longer than 30 characters, and stands in many lines of the project"
    if keyword.iskeyword(slug) or keyword.issoftkeyword(slug):
        return "it is a word of the Python language"
    if slug in sys.stdlib_module_names:
        return "it would hide the module of that name in Python's standard library"
    if slug in TAKEN:
        return "that name is used by the project itself or by a package that it needs"
    if slug in ("aux", "con", "nul", "prn"):
        return "Windows can have no folder of that name"
    return None


def reason_to_refuse_name(name, given):
    """Why `name` cannot be the site's name, or None if it can; `given` is what cookiecutter made it of."""
    # The order of the characters matters: this file is a template, too.
    if re.search("{[#%{]", given) and name != given:
        return (
            f"cookiecutter took {given[:80]!r}, which was given in advance, for the language of its templates; leave it out "
            "there, and type it when you are asked"
        )
    if not name.strip():
        return "people need something to read"
    if re.search("[\ud800-\udfff\0]", name):
        return "it holds what is no character"
    return None


def unknown_choice():
    """A sentence about an answer that is none of its question's, as a file for --replay may have, or None."""
    questions = Path(ANSWERS.get("_repo_dir", ""), "cookiecutter.json")
    if not questions.is_file():
        return None
    for question, choices in json.loads(questions.read_text(encoding="utf-8")).items():
        if isinstance(choices, list) and not question.startswith("_") and ANSWERS[question] not in choices:
            return f"{question} {ANSWERS[question]!r} cannot be used: possible are {', '.join(choices)}."
    return None


def symbolic_link_in_the_way(slug: str) -> Path | None:
    """A path that the template writes and that is a symbolic link in a folder that is there, or None."""
    repository = Path(ANSWERS.get("_repo_dir", ""))
    written = {Path(".env"), Path("uv.lock"), Path("_parts")}
    # This file is rendered, so it cannot name the folder as the template does.
    for source in repository.glob("*cookiecutter.project_slug*/**/*"):
        parts = [slug if "project_slug" in part else part for part in source.relative_to(repository).parts[1:]]
        written.add(Path(*(parts[3:] if parts[0] == "_parts" else parts)))
    return next((path for path in sorted(written) if path.is_symlink()), None)


def main():
    slug, name = ANSWERS.get("__slug", ANSWERS["project_slug"]), ANSWERS["project_name"]
    if reason := reason_to_refuse_name(name, GIVEN.get("project_name", name)):
        sys.exit(f"project_name {name[:80]!r} cannot be used: {reason}.")
    if reason := reason_to_refuse(slug):
        sys.exit(f"project_slug {slug[:80]!r} cannot be used: {reason}.")
    if sentence := unknown_choice():
        sys.exit(sentence)
    if shutil.disk_usage(".").free < ROOM:
        sys.exit(f"There is no room for a project in {Path.cwd().parent}: less than {ROOM // 1_000_000} MB are left.")
    if link := symbolic_link_in_the_way(slug):
        sys.exit(
            f"{link} is a symbolic link, and a file would be written through it. Move it away, or generate into another folder."
        )
    if any(Path().iterdir()):
        # For --overwrite-if-exists: post_gen_project.py must not throw away what is not ours.
        Path("_parts").mkdir(exist_ok=True)
        Path("_parts", "OVERWRITTEN").touch()


if __name__ == "__main__":
    main()
