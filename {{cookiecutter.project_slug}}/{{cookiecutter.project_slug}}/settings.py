"""Settings. Their values come from environment variables, which the README lists.

The defaults are safe: debug mode is off, and startup fails without a secret key.
"""

from datetime import timedelta
{% if cookiecutter.server != "daphne" %}
from importlib.util import find_spec
{% endif %}
from pathlib import Path

from .env import (
    Env,
    address,
    bool_errors,
    host,
    language,
    network,
    one_of,
    origin,
{% if cookiecutter.starter == "api" %}
    rate,
{% endif %}
    time_zone,
    url_path,
{% if cookiecutter.starter == "api" %}
    web_url,
{% endif %}
    whole_number,
)
from .serving.logs import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
SITE_NAME = @SITE_NAME@

# Environment variables

env = Env(BASE_DIR / ".env")
DEBUG = env.bool("DJANGO_DEBUG", default=False, **bool_errors)
if DEBUG:
    SECRET_KEY = env.str("DJANGO_SECRET_KEY", default="only-for-development")
else:
    SECRET_KEY = env.str("DJANGO_SECRET_KEY")
ALLOWED_HOSTS = env.csv("DJANGO_ALLOWED_HOSTS", default="", validate_each=host)
CSRF_TRUSTED_ORIGINS = env.csv("DJANGO_CSRF_TRUSTED_ORIGINS", default="", validate_each=origin)
FORWARDED_ALLOW_IPS = env.csv("FORWARDED_ALLOW_IPS", default="127.0.0.1,::1", validate_each=network)
# Set this to false where there is no HTTPS, such as on your own machine.
SECURE_SSL_REDIRECT = env.bool("DJANGO_SECURE_SSL_REDIRECT", default=not DEBUG, **bool_errors)
# How many seconds browsers use only HTTPS for the site.
SECURE_HSTS_SECONDS = env.int(
    "DJANGO_SECURE_HSTS_SECONDS", default=0 if DEBUG else 60 * 60, **whole_number(0, 10**8)
)
# The folder of uploaded files. Its name has a dot, so that Python cannot import from it.
MEDIA_ROOT = BASE_DIR / env.str("DJANGO_MEDIA_ROOT", default="media.files")
script_name = env.str("DJANGO_SCRIPT_NAME", default="", validate=url_path)
{% if cookiecutter.database == "postgresql" %}
database = env.database_url("DATABASE_URL", schemes=["postgres", "postgresql"])
{% else %}
database = env.database_url("DATABASE_URL", default="sqlite:///db.sqlite3", schemes=["sqlite"])
{% endif %}
{% if cookiecutter.__channels %}
REDIS_URL = env.service_url("REDIS_URL", default="", schemes=["redis", "rediss", "unix"])
# "none" accepts any certificate, such as the self-signed one of Heroku's Redis.
redis_ssl_cert_reqs = env.str(
    "REDIS_SSL_CERT_REQS", default="required", validate=one_of("required", "none")
)
{% endif %}
email = env.email_url("EMAIL_URL", default="console://" if DEBUG else "smtp://localhost:25")
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="webmaster@localhost")
admins = env.csv("ADMINS", default="", validate_each=address)
LANGUAGE_CODE = env.str("DJANGO_LANGUAGE_CODE", default="en-us", validate=language)
TIME_ZONE = env.str("DJANGO_TIME_ZONE", default="UTC", validate=time_zone)
{% if cookiecutter.starter == "live" %}
# Whether to check services at loopback and link-local addresses: status/addresses.py.
STATUS_ALLOW_LOCAL_ADDRESSES = env.bool(
    "STATUS_ALLOW_LOCAL_ADDRESSES", default=DEBUG, **bool_errors
)
{% endif %}
{% if cookiecutter.starter == "api" %}
# How many requests to the API one user may send.
API_RATE_LIMIT = env.str("API_RATE_LIMIT", default="600/m", validate=rate)
# The services that /api/upstreams queries.
API_UPSTREAMS = env.csv("API_UPSTREAMS", default="", validate_each=web_url)
{% endif %}
{% if cookiecutter.starter == "assistant" %}
# Any server that speaks the OpenAI protocol. The default is Ollama on this machine, which ignores
# the key.
OPENAI_BASE_URL = env.service_url(
    "OPENAI_BASE_URL", default="http://localhost:11434/v1", schemes=["http", "https"]
)
OPENAI_API_KEY = env.str("OPENAI_API_KEY", default="none")
OPENAI_MODEL = env.str("OPENAI_MODEL", default="llama3.2")
{% endif %}
ASGI_THREADS = env.int("ASGI_THREADS", default=10, **whole_number(1, 1000))
# The server's command uses these two. They are read here only to report invalid values clearly.
PORT = env.int("PORT", default=8000, **whole_number(1, 65535))
WEB_CONCURRENCY = env.int("WEB_CONCURRENCY", default=1, **whole_number(1, 1000))
# Every visitor can see the `Server-Timing` header.
SERVER_TIMING = env.bool("DJANGO_SERVER_TIMING", default=DEBUG, **bool_errors)
log_format = env.str("DJANGO_LOG_FORMAT", default="text", validate=one_of("text", "json"))
env.seal()

# Security

# A trusted proxy says whether a request came over HTTPS: serving/proxy.py, FORWARDED_ALLOW_IPS.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
# The domain's owner decides whether HSTS includes subdomains and preload lists.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# These disable browser features and embedding by other sites. A view can set other values.
SECURITY_HEADERS = {
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# The sources that pages may load from: add others here. The policy blocks injected scripts.
policy = {
    "default-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "base-uri": ["'none'"],
    # Add other origins that form views redirect to, such as "https://accounts.google.com".
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
    "object-src": ["'none'"],
}
if DEBUG:
    # Only report violations in the browser's console. Firefox and Safari require an endpoint name.
{% if cookiecutter.django_version == "5.2" %}
    CONTENT_SECURITY_POLICY_REPORT_ONLY = {"DIRECTIVES": policy | {"report-to": ["console"]}}
else:
    CONTENT_SECURITY_POLICY = {"DIRECTIVES": policy}
{% else %}
    SECURE_CSP_REPORT_ONLY = policy | {"report-to": ["console"]}
else:
    SECURE_CSP = policy
{% endif %}

# Applications

INSTALLED_APPS = [
{% if cookiecutter.server == "daphne" %}
    "daphne",  # first, so that its `runserver`, which speaks ASGI, replaces Django's
{% endif %}
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
{% if cookiecutter.__channels %}
    "channels",
{% endif %}
    "axes",
{% if cookiecutter.starter == "live" %}
    "django_tasks_db",
{% endif %}
    "{{ cookiecutter.project_slug }}.serving",
    "accounts",
    "{{ cookiecutter.__app }}",
{% if cookiecutter.starter == "api" %}
    "ninja",  # after `api`, which overrides one of its templates
{% endif %}
]
{% if cookiecutter.server != "daphne" %}
if find_spec("daphne"):  # a development dependency; first, so that `runserver` speaks ASGI
    INSTALLED_APPS.insert(0, "daphne")
{% endif %}

MIDDLEWARE = [
    "{{ cookiecutter.project_slug }}.serving.monitoring.HealthMiddleware",
    "{{ cookiecutter.project_slug }}.serving.monitoring.TimingMiddleware",
    "{{ cookiecutter.project_slug }}.serving.headers.CacheControlMiddleware",
    "{{ cookiecutter.project_slug }}.serving.headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "{{ cookiecutter.project_slug ~ ".serving.csp.CSPMiddleware" if cookiecutter.django_version == "5.2" else "django.middleware.csp.ContentSecurityPolicyMiddleware" }}",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
{% if cookiecutter.starter == "api" %}
    "api.problems.problem_middleware",
{% endif %}
]

# The path below which the site is served, such as /app.
SCRIPT_NAME = script_name.rstrip("/")
FORCE_SCRIPT_NAME = SCRIPT_NAME or None
ROOT_URLCONF = "{{ cookiecutter.project_slug }}.urls"
ASGI_APPLICATION = "{{ cookiecutter.project_slug }}.asgi.application"
WSGI_APPLICATION = "{{ cookiecutter.project_slug }}.wsgi.application"

# Templates

template_loaders = [
    "django.template.loaders.filesystem.Loader",
    "django.template.loaders.app_directories.Loader",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "{{ cookiecutter.project_slug }}" / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "{{ cookiecutter.project_slug }}.context_processors.site",
            ],
            # In debug mode, templates are not cached, so changes appear without a restart.
            "loaders": template_loaders
            if DEBUG
            else [("django.template.loaders.cached.Loader", template_loaders)],
        },
    },
]

# Database

{% if cookiecutter.database == "postgresql" %}
# Networks silently drop connections that are idle for minutes. In seconds.
keep_alive = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 3}
options = keep_alive | database.get("OPTIONS", {})
DATABASES = {"default": {**database, "CONN_HEALTH_CHECKS": True, "OPTIONS": options}}
{% else %}
options = {
    # Readers and the one writer do not block each other; a second writer waits up to 10 s.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "timeout": 10,
    # Lock when a transaction begins. A transaction that reads first could not wait for the lock.
    "transaction_mode": "IMMEDIATE",
}
# A relative path is relative to the project's folder, not to the working directory.
DATABASES = {"default": {**database, "NAME": BASE_DIR / database["NAME"], "OPTIONS": options}}
{% endif %}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
{% if cookiecutter.__channels %}

# Channels

redis_host = {"address": REDIS_URL}
if REDIS_URL.startswith("rediss:"):
    redis_host["ssl_cert_reqs"] = redis_ssl_cert_reqs
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "{{ cookiecutter.project_slug }}.serving.channel_layer.RedisChannelLayer",
        "CONFIG": {"hosts": [redis_host]},
    }
    if REDIS_URL
{% if cookiecutter.database == "postgresql" %}
    else {
        "BACKEND": "{{ cookiecutter.project_slug }}.serving.channel_layer.PostgreSQLChannelLayer",
    }
{% else %}
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
{% endif %}
}
{% endif %}

# Users

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = f"{SCRIPT_NAME}/"
LOGOUT_REDIRECT_URL = f"{SCRIPT_NAME}/"
AUTHENTICATION_BACKENDS = ["accounts.backends.LimitedModelBackend"]
# After this many wrong passwords, an IP address is locked out: for one username, or for all.
AXES_FAILURE_LIMIT = 10
ADDRESS_FAILURE_LIMIT = 30
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "accounts.backends.get_client_network"
AXES_HANDLER = "accounts.backends.LimitedAddressHandler"
AXES_LOCKOUT_CALLABLE = "accounts.views.locked_out"

# Files

STATIC_URL = f"{SCRIPT_NAME}/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
MEDIA_URL = f"{SCRIPT_NAME}/media/"
TEST_RUNNER = "{{ cookiecutter.project_slug }}.testing.TemporaryFilesRunner"  # of `manage.py test`
STATICFILES_DIRS = [BASE_DIR / "{{ cookiecutter.project_slug }}" / "static"]
STORAGES = {
{% if cookiecutter.starter == "wiki" %}
    "default": {"BACKEND": "{{ cookiecutter.project_slug }}.storage.CourseStorage"},
    "entries": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": BASE_DIR / "entries", "allow_overwrite": True},
    },
{% else %}
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
{% endif %}
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "servestatic.storage.CompressedManifestStaticFilesStorage"
    },
}

# Email and logging

# In production, errors are emailed to these addresses.
{% if cookiecutter.django_version == "5.2" %}
ADMINS = [(each, each) for each in admins]
{% else %}
ADMINS = admins
{% endif %}
SERVER_EMAIL = DEFAULT_FROM_EMAIL
{% if cookiecutter.django_version == "5.2" %}
EMAIL_BACKEND = email["EMAIL_BACKEND"]
EMAIL_HOST = email["EMAIL_HOST"]
EMAIL_PORT = email["EMAIL_PORT"]
EMAIL_HOST_USER = email["EMAIL_HOST_USER"]
EMAIL_HOST_PASSWORD = email["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS = email["EMAIL_USE_TLS"]
EMAIL_USE_SSL = email["EMAIL_USE_SSL"]
EMAIL_TIMEOUT = email["EMAIL_TIMEOUT"] or 10
EMAIL_FILE_PATH = email["EMAIL_FILE_PATH"]
{% else %}
email_options = {
    "host": email["EMAIL_HOST"],
    "port": email["EMAIL_PORT"],
    "username": email["EMAIL_HOST_USER"],
    "password": email["EMAIL_HOST_PASSWORD"],
    "use_tls": email["EMAIL_USE_TLS"],
    "use_ssl": email["EMAIL_USE_SSL"],
    "timeout": email["EMAIL_TIMEOUT"] or (email["EMAIL_HOST"] and 10),
    "file_path": email["EMAIL_FILE_PATH"],
}
MAILERS = {
    "default": {
        "BACKEND": email["EMAIL_BACKEND"],
        "OPTIONS": {name: value for name, value in email_options.items() if value},
    }
}
{% endif %}
{% if cookiecutter.starter == "live" %}

# The database is the queue of background tasks: status/tasks.py, and the worker of the Procfile.

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

{% endif %}
LOGGING = logging_config(log_format)
