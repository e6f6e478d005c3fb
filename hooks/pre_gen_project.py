"""Refuse a package name that cannot work, before anything is generated."""

import json
import keyword
import re
import sys

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")

# Top-level modules that the generated project, its dependencies and its tools bring along. A test compares this
# list with what is really installed for each combination of answers.
TAKEN = """
    accounts anyio asgi asgiref async_timeout attr attrs autobahn automat axes blib2to3 brotli build cbor2 cffi
    channels channels_redis chat click compose conftest constantly cryptography csp daphne deploy django docs dotenv
    encyclopedia entries environ execnet google granian gunicorn h11 h2 hpack httpcore2 httptools httpx httpx2
    hypercorn hyperframe hyperlink idna incremental iniconfig main manage markdown_it mdurl media msgpack multipart
    nh3 openssl packaging pages pluggy priority psycopg psycopg_binary psycopg_pool py pyasn1 pyasn1_modules
    pycparser pygments pytest pytest_asyncio pytest_django python_dotenv pythonjsonlogger redis ruff servestatic
    service_identity settings sniffio sqlparse starters static staticfiles status templates test tests truststore
    twisted txaio typing_extensions tzdata ujson urls uv uvicorn uvicorn_worker uvloop venv watchfiles websockets
    wsgi wsproto xdist yaml zope
""".split()  # noqa: SIM905 (a list of a hundred lines says no more)


def reason_to_refuse(slug):
    """Why the slug cannot be a project's package, or None if it can."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", slug):
        return "use lower-case letters a-z, digits and underscores, beginning with a letter and not ending with _"
    if keyword.iskeyword(slug) or keyword.issoftkeyword(slug):
        return "it is a word of the Python language"
    if slug in sys.stdlib_module_names:
        return "it would hide the module of that name in Python's standard library"
    if slug in TAKEN:
        return "that name is used by the project itself or by a package that it needs"
    return None


def main():
    slug = ANSWERS["project_slug"]
    reason = reason_to_refuse(slug)
    if reason:
        sys.exit(f"project_slug {slug!r} cannot be used: {reason}.")


if __name__ == "__main__":
    main()
