"""gunicorn reads this file by itself; the command is in the Procfile."""

from uvicorn_worker import UvicornWorker

worker_class = UvicornWorker

# Settings of uvicorn that gunicorn has no options for.
UvicornWorker.CONFIG_KWARGS |= {
    "proxy_headers": False,
    "timeout_graceful_shutdown": 10,
    "ws_max_size": 1_048_576,
}
