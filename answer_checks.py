"""Jinja filters for cookiecutter.json and the hooks: they validate answers and propose a slug."""

import keyword
import re
import sys

from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

MAX_SLUG_LENGTH = 30

# Top-level modules of generated projects, their dependencies and their tools. A test compares this list with the
# packages that are installed for each combination of answers. The last line lists modules that later Python versions add.
RESERVED_NAMES = """
    accounts allauth amqp annotated_doc annotated_types anyio api asgi asgiref assistant ast_serialize async_timeout
    attr attrs autobahn automat axes billiard blib2to3 boto3 botocore brotli build cbor2 celery certifi cffi channels
    channels_redis chat click compose conftest constantly coverage cryptography csp daphne dateutil debug_toolbar deploy
    distro dj_database_url dj_email_url django django_redis django_stubs_ext django_tasks django_tasks_db django_tenants
    django_valkey docs dotenv encyclopedia entries environs execnet fastapi game google granian gunicorn h11 h2 hpack
    httpcore httpcore2 httptools httpx httpx2 hypercorn hyperframe hyperlink idna incremental iniconfig jiter jmespath
    kombu librt main manage markdown2 markdown_it marshmallow mdurl media msgpack multipart mypy mypy_django_plugin
    mypy_extensions mypyc nh3 ninja notifications openai openssl opentelemetry packaging pages pathspec pluggy priority
    psycopg psycopg_binary psycopg_pool py pyasn1 pyasn1_modules pycparser pydantic pydantic_core pygments pytest
    pytest_asyncio pytest_cov pytest_django python_dotenv pythonjsonlogger redis ruff s3transfer sentry_sdk servestatic
    service_identity settings six sniffio sqlparse starlette static staticfiles status storages templates test tests
    tqdm truststore twisted txaio typing_extensions typing_inspection tzdata ujson urllib3 urls uv uvicorn
    uvicorn_worker uvloop valkey venv vine watchfiles websockets wsgi wsproto xdist yaml zope
    annotationlib compression
""".split()  # noqa: SIM905 (a list would have a hundred lines)


def name_error(name: str) -> str | None:
    """Return why the name cannot be a site's name, or None if it is valid."""
    if not name.strip():
        return "it is blank"
    if re.search("[\ud800-\udfff\0]", name):
        return "it contains invalid characters"
    return None


def slug_error(slug: str) -> str | None:
    """Return why the slug cannot be a project's package name, or None if it is valid."""
    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", slug):
        return (
            "it must start with a lowercase letter, end with a letter or digit, and contain only these and underscores"
        )
    if len(slug) > MAX_SLUG_LENGTH:
        return f"it is longer than {MAX_SLUG_LENGTH} characters"
    if keyword.iskeyword(slug) or keyword.issoftkeyword(slug):
        return "it is a Python keyword"
    if slug in sys.stdlib_module_names:
        return "it would shadow a module of Python's standard library"
    if slug in RESERVED_NAMES:
        return "it would shadow a module of the project or of one of its dependencies"
    if re.fullmatch(r"aux|con|nul|prn|(com|lpt)\d", slug):
        return "Windows reserves this name"
    return None


def propose_slug(text: str) -> str:
    """Return a valid slug close to the text, or `my_site` if the text has no letters or digits."""
    slug = slugify(text, separator="_", max_length=MAX_SLUG_LENGTH) or "my_site"
    if not slug[0].isalpha():
        slug = f"site_{slug}"[:MAX_SLUG_LENGTH].rstrip("_")
    return f"{slug}_site" if slug_error(slug) else slug


def check_name(name: str) -> str:
    """Return the name, or exit with an error message if it is invalid."""
    if reason := name_error(name):
        sys.exit(f"project_name {name[:80]!r} cannot be used: {reason}.")
    return name


def check_slug(slug: str) -> str:
    """Return the slug, or exit with an error message if it is invalid."""
    if reason := slug_error(slug):
        sys.exit(f"project_slug {slug[:80]!r} cannot be used: {reason}; try {propose_slug(slug)}.")
    return slug


class AnswerChecks(Extension):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters = (name_error, slug_error, propose_slug, check_name, check_slug)
        environment.filters.update({each.__name__: each for each in filters})
        # `cruft update` renders the old template and the new one in one process, each with its own version of this module.
        sys.modules.pop(__name__, None)
