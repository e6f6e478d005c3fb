"""gunicorn's configuration, which it loads by default; the command is in the Procfile."""

from uvicorn_worker import UvicornWorker

worker_class = UvicornWorker

# Settings of uvicorn for which gunicorn has no options.
UvicornWorker.CONFIG_KWARGS |= {
    "proxy_headers": False,
    "timeout_graceful_shutdown": 10,
    "ws_max_size": 1_048_576,
}
