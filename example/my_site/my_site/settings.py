"""Settings. Their values come from environment variables, which the README lists.

The defaults are safe: debug mode is off, and startup fails without a secret key.
"""

from datetime import timedelta
from importlib.util import find_spec
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
    time_zone,
    url_path,
    whole_number,
)
from .serving.logs import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent
SITE_NAME = "My Site"

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
database = env.database_url("DATABASE_URL", default="sqlite:///db.sqlite3", schemes=["sqlite"])
email = env.email_url("EMAIL_URL", default="console://" if DEBUG else "smtp://localhost:25")
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="webmaster@localhost")
admins = env.csv("ADMINS", default="", validate_each=address)
LANGUAGE_CODE = env.str("DJANGO_LANGUAGE_CODE", default="en-us", validate=language)
TIME_ZONE = env.str("DJANGO_TIME_ZONE", default="UTC", validate=time_zone)
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
    CONTENT_SECURITY_POLICY_REPORT_ONLY = {"DIRECTIVES": policy | {"report-to": ["console"]}}
else:
    CONTENT_SECURITY_POLICY = {"DIRECTIVES": policy}

# Applications

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "my_site.serving",
    "accounts",
    "pages",
]
if find_spec("daphne"):  # a development dependency; first, so that `runserver` speaks ASGI
    INSTALLED_APPS.insert(0, "daphne")

MIDDLEWARE = [
    "my_site.serving.monitoring.HealthMiddleware",
    "my_site.serving.monitoring.TimingMiddleware",
    "my_site.serving.headers.CacheControlMiddleware",
    "my_site.serving.headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "my_site.serving.csp.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

# The path below which the site is served, such as /app.
SCRIPT_NAME = script_name.rstrip("/")
FORCE_SCRIPT_NAME = SCRIPT_NAME or None
ROOT_URLCONF = "my_site.urls"
ASGI_APPLICATION = "my_site.asgi.application"
WSGI_APPLICATION = "my_site.wsgi.application"

# Templates

template_loaders = [
    "django.template.loaders.filesystem.Loader",
    "django.template.loaders.app_directories.Loader",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "my_site" / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "my_site.context_processors.site",
            ],
            # In debug mode, templates are not cached, so changes appear without a restart.
            "loaders": template_loaders
            if DEBUG
            else [("django.template.loaders.cached.Loader", template_loaders)],
        },
    },
]

# Database

options = {
    # Readers and the one writer do not block each other; a second writer waits up to 10 s.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "timeout": 10,
    # Lock when a transaction begins. A transaction that reads first could not wait for the lock.
    "transaction_mode": "IMMEDIATE",
}
# A relative path is relative to the project's folder, not to the working directory.
DATABASES = {"default": {**database, "NAME": BASE_DIR / database["NAME"], "OPTIONS": options}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

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
TEST_RUNNER = "my_site.testing.TemporaryFilesRunner"  # of `manage.py test`
STATICFILES_DIRS = [BASE_DIR / "my_site" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "servestatic.storage.CompressedManifestStaticFilesStorage"
    },
}

# Email and logging

# In production, errors are emailed to these addresses.
ADMINS = [(each, each) for each in admins]
SERVER_EMAIL = DEFAULT_FROM_EMAIL
EMAIL_BACKEND = email["EMAIL_BACKEND"]
EMAIL_HOST = email["EMAIL_HOST"]
EMAIL_PORT = email["EMAIL_PORT"]
EMAIL_HOST_USER = email["EMAIL_HOST_USER"]
EMAIL_HOST_PASSWORD = email["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS = email["EMAIL_USE_TLS"]
EMAIL_USE_SSL = email["EMAIL_USE_SSL"]
EMAIL_TIMEOUT = email["EMAIL_TIMEOUT"] or 10
EMAIL_FILE_PATH = email["EMAIL_FILE_PATH"]
LOGGING = logging_config(log_format)
