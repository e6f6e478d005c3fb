"""Settings, driven by the environment: the README lists the variables.

Safe when nothing is set: debug mode is off, and without a secret key nothing starts.
"""

from datetime import timedelta
{% if cookiecutter.server != "daphne" %}
from importlib.util import find_spec
{% endif %}
from pathlib import Path

from {{ cookiecutter.project_slug }}.environment import Environment
from {{ cookiecutter.project_slug }}.serving.logs import logs_as

BASE_DIR = Path(__file__).resolve().parent.parent
SITE_NAME = @SITE_NAME@
env = Environment()
env.read_env(BASE_DIR / ".env")

# Security

DEBUG = env.bool("DJANGO_DEBUG", default=False)
SECRET_KEY = env.required(
    "DJANGO_SECRET_KEY",
    "For development copy .env.example to .env; in production set the variable.",
    default="only-for-development" if DEBUG else "",
)
ALLOWED_HOSTS = env.hosts("DJANGO_ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.origins("DJANGO_CSRF_TRUSTED_ORIGINS")
FORWARDED_ALLOW_IPS = env.networks("FORWARDED_ALLOW_IPS", default=["127.0.0.1", "::1"])

if not DEBUG:
    # The proxy says whether a request came over HTTPS: serving/proxy.py, FORWARDED_ALLOW_IPS.
    SECURE_SSL_REDIRECT = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    # Browsers remember for this long that the site has HTTPS only.
    SECURE_HSTS_SECONDS = 30 * 24 * 60 * 60
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True

# What pages may load, and from where: further sources go here. It keeps out script that somebody got into a page.
policy = {
    "default-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "base-uri": ["'none'"],
    # Also where a form's view may redirect to: "https://accounts.google.com" for sign-in with Google.
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
    "object-src": ["'none'"],
}
if DEBUG:
    # Only the browser's console reports it. Firefox and Safari want the name of an endpoint; there is none.
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
    "daphne",  # first, so that `runserver` is daphne's, which speaks ASGI
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
]
{% if cookiecutter.server != "daphne" %}
if find_spec("daphne"):  # a development dependency; first, so that `runserver` speaks ASGI
    INSTALLED_APPS.insert(0, "daphne")
{% endif %}

MIDDLEWARE = [
    "{{ cookiecutter.project_slug }}.serving.monitoring.HealthMiddleware",
    "{{ cookiecutter.project_slug }}.serving.monitoring.TimingMiddleware",
    "{{ cookiecutter.project_slug }}.serving.middleware.CacheControlMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "{{ cookiecutter.project_slug ~ ".serving.middleware.CSPMiddleware" if cookiecutter.django_version == "5.2" else "django.middleware.csp.ContentSecurityPolicyMiddleware" }}",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

# For the server's command, which would not say what was wrong.
env.int("PORT", default=8000, most=65535)
env.int("WEB_CONCURRENCY", default=1, most=1000)

# The path below which the site is.
SCRIPT_NAME = env.script_name("DJANGO_SCRIPT_NAME")
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
            # Without the cache, a changed template shows at once on every server.
            "loaders": template_loaders
            if DEBUG
            else [("django.template.loaders.cached.Loader", template_loaders)],
        },
    },
]

# Database

{% if cookiecutter.database == "postgresql" %}
env.required("DATABASE_URL", "It says where: postgres://user:password@host:5432/database")
database_url = env.service("DATABASE_URL", ["postgres", "postgresql"])
DATABASES = {"default": env.db_url_config(database_url)}
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
# Networks forget connections that are silent for minutes, and tell nobody. In seconds.
keep_alive = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 3}
DATABASES["default"]["OPTIONS"] = keep_alive | DATABASES["default"].get("OPTIONS", {})
{% else %}
database_url = env.service("DATABASE_URL", ["sqlite"], default="sqlite:///db.sqlite3")
DATABASES = {"default": env.db_url_config(database_url)}
DATABASES["default"] |= {
    # A relative path starts here, wherever the command was started.
    "NAME": BASE_DIR / DATABASES["default"]["NAME"],
    "OPTIONS": {
        # Readers and the one writer do not wait for each other; a second writer waits up to 10 s.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "timeout": 10,
        # Locks at the start of a transaction: one that reads first could not wait for the lock later.
        "transaction_mode": "IMMEDIATE",
    },
}
{% endif %}
# The threads for requests, those for event streams, WebSockets and late tasks, and for how many seconds
# their connections are kept. (CONN_MAX_AGE stays 0: Django's own ASGI handler would leak connections.)
ASGI_THREADS = env.int("ASGI_THREADS", default=10, most=1000)
ASGI_BACKGROUND_THREADS = 5
ASGI_CONN_MAX_AGE = 600
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
{% if cookiecutter.__channels %}

# Channels

REDIS_URL = env.service("REDIS_URL", ["redis", "rediss", "unix"])
# "none" accepts any certificate, such as the self-signed one of Heroku's Redis.
redis_ssl_cert_reqs = env.one_of(["required", "none"], "REDIS_SSL_CERT_REQS")
redis_host = {"address": REDIS_URL}
if REDIS_URL.startswith("rediss:"):
    redis_host["ssl_cert_reqs"] = redis_ssl_cert_reqs
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "{{ cookiecutter.project_slug }}.serving.channel_layer.RedisChannelLayer",
        "CONFIG": {"hosts": [redis_host]},
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
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
# So many wrong passwords for a name from an address, or for all names, lock the address out for a while.
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
MEDIA_ROOT = BASE_DIR  # where the relative paths of the default storage start
STATICFILES_DIRS = [BASE_DIR / "{{ cookiecutter.project_slug }}" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "servestatic.storage.CompressedManifestStaticFilesStorage"
    },
}

# Mail, language and logs

default_mail_url = "consolemail://" if DEBUG else "smtp://localhost:25"
mail_url = env.service("EMAIL_URL", env.EMAIL_SCHEMES, default=default_mail_url)
{% if cookiecutter.django_version == "5.2" %}
vars().update(env.email_url_config(mail_url))
EMAIL_TIMEOUT = 10
{% else %}
mail = env.email_url_config(mail_url)
mail_options = {
    "host": mail["EMAIL_HOST"],
    "port": mail["EMAIL_PORT"],
    "username": mail["EMAIL_HOST_USER"],
    "password": mail["EMAIL_HOST_PASSWORD"],
    "use_tls": mail.get("EMAIL_USE_TLS"),
    "use_ssl": mail.get("EMAIL_USE_SSL"),
    "timeout": mail["EMAIL_HOST"] and 10,
}
MAILERS = {
    "default": {
        "BACKEND": mail["EMAIL_BACKEND"],
        "OPTIONS": {name: value for name, value in mail_options.items() if value},
    }
}
{% endif %}
{% if cookiecutter.starter == "live" %}
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="webmaster@localhost")

# Background tasks wait in the database: status/tasks.py, and the worker of the Procfile.

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

# Whether the board may check services on this machine and its network segment: status/addresses.py.
STATUS_ALLOW_LOCAL_ADDRESSES = env.bool("STATUS_ALLOW_LOCAL_ADDRESSES", default=DEBUG)
{% endif %}

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
SERVER_TIMING = env.bool("DJANGO_SERVER_TIMING", default=DEBUG)  # strangers learn from it, too
LOGGING = logs_as(env.one_of(["text", "json"], "DJANGO_LOG_FORMAT"))
