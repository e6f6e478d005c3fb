"""Finish the generated project: keep the chosen parts, insert the server's command, write .env, lock the dependencies.

`ANSWERS` contains the answers as data. `SERVERS` contains the differences between servers.
"""

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWERS: dict[str, Any] = json.loads(r"""{{ cookiecutter | jsonify }}""")
SLUG: str = ANSWERS["project_slug"]


@dataclass
class Server:
    dependencies: list[str]
    command: str
    develop: str
    develop_with_sqlite: str = ""


# The Procfile, the Dockerfile and the README run `command`. PORT and WEB_CONCURRENCY come from the environment, graceful
# shutdown gives requests in flight 10 seconds, and a WebSocket message is limited to 1 MiB. The keep-alive timeout is longer than
# that of proxies (60 s in nginx and at AWS), or they would reuse a connection that was just closed. `serving/proxy.py` reads
# the proxy's headers in the same way on every server, so the servers' own handling of them is off. Configuration for which a
# server has no option is in _parts/servers/<name>/. In `develop`, graceful shutdown takes at most one second: otherwise, an
# open event stream would delay each reload.
SERVERS = {
    "uvicorn": Server(
        dependencies=["uvicorn[standard]>=0.54,<1"],
        command="uvicorn {app} --host 0.0.0.0 --port ${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --timeout-keep-alive 75 --timeout-graceful-shutdown 10 --ws-max-size 1048576 --no-proxy-headers --no-access-log",
        develop="uvicorn {app} --reload --timeout-graceful-shutdown 1",
    ),
    "daphne": Server(
        dependencies=["daphne>=4.2.3,<5"],
        command="daphne {app} --bind 0.0.0.0 --port ${PORT:-8000} --verbosity 0"
        " --application-close-timeout 10 --websocket-max-message-size 1048576",
        develop="manage.py runserver",
    ),
    "hypercorn": Server(
        dependencies=["hypercorn>=0.18,<1"],
        command="hypercorn {app} --bind 0.0.0.0:${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --keep-alive 75 --graceful-timeout 10 --config file:hypercorn.conf.py",
        develop="hypercorn {app} --reload --graceful-timeout 1",
    ),
    "gunicorn": Server(
        dependencies=["gunicorn>=27,<28", "uvicorn[standard]>=0.54,<1", "uvicorn-worker>=0.4,<1"],
        command="gunicorn {app} --bind 0.0.0.0:${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --keep-alive 75 --graceful-timeout 12",
        # gunicorn's own --reload does not stop uvicorn's workers.
        develop="uvicorn {app} --reload --timeout-graceful-shutdown 1",
    ),
    "granian": Server(
        dependencies=["granian[reload]>=2.8.3,<3"],
        # With HTTP/2, an idle connection would stay open without limit.
        command="granian {app} --interface asgi --http 1 --host 0.0.0.0 --port ${PORT:-8000}"
        " --workers ${WEB_CONCURRENCY:-1} --backpressure 10000 --workers-kill-timeout 10"
        # This is also the keep-alive timeout. granian's maximum is 60 seconds.
        " --http1-header-read-timeout 60000"
        " --respawn-failed-workers --log-level warning",
        # Otherwise every uploaded file and every write to the database would trigger a reload.
        develop="granian {app} --interface asgi --reload --reload-ignore-dirs media.files --workers-kill-timeout 1",
        develop_with_sqlite=" --reload-ignore-patterns sqlite3",
    ),
}


# The files that belong to a single answer. A slug cannot begin with _, so no package has this name.
PARTS = Path("_parts")
OVERWRITES_PROJECT = Path(PARTS, "OVERWRITTEN").exists()  # written by pre_gen_project.py


def main() -> None:
    server = SERVERS[ANSWERS["server"]]
    starter = Path(PARTS, "starters", ANSWERS["starter"])
    about_starter = take_text(starter / "ABOUT.md")
    account_links = take_text(starter / "ACCOUNT_LINKS.html")
    move_to_root(starter)
    move_to_root(Path(PARTS, "pipelines", ANSWERS["ci"]))
    move_to_root(Path(PARTS, "servers", ANSWERS["server"]))
    move_to_root(Path(PARTS, "databases", ANSWERS["database"]))
    move_to_root(Path(PARTS, "django", ANSWERS["django_version"]))
    shutil.rmtree(PARTS)
    if not ANSWERS["__channels"]:
        Path(SLUG, "routing.py").unlink()
        Path(SLUG, "serving", "channel_layer.py").unlink()
        Path(SLUG, "serving", "origin.py").unlink()
        if ANSWERS["server"] == "granian":
            Path(SLUG, "serving", "hardening.py").unlink()
    replace_placeholders(
        {
            "@SITE_NAME@": python_literal(ANSWERS["project_name"]),
            "@TITLE@": markdown_text(ANSWERS["project_name"]),
            "@ABOUT@\n": about_starter and about_starter + "\n",
            "      @ACCOUNT_LINKS@\n": account_links,
            "@SERVER_DEPENDENCIES@": ",\n".join(f'    "{dependency}"' for dependency in sorted(server.dependencies)),
            "@SERVER_COMMAND@": insert_application(server.command),
            "@SERVER_DEVELOP@": develop_command(server),
        }
    )
    write_env()
    lock_dependencies()
    print_next_steps(server)


def take_text(path: Path) -> str:
    """Return the text of a file and delete the file; return "" if it does not exist."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def move_to_root(chosen: Path) -> None:
    """Move the contents of the folder `chosen`, which may not exist, to the root of the project."""
    for source in sorted(chosen.rglob("*")):
        target = source.relative_to(chosen)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)


def replace_placeholders(values: dict[str, str]) -> None:
    """Replace the placeholders whose values need escaping or come from `SERVERS`, which Jinja cannot read."""
    for path in (
        Path(SLUG, "settings.py"),
        Path("pyproject.toml"),
        Path("README.md"),
        Path("Procfile"),
        Path("Dockerfile"),
        Path(".devcontainer", "devcontainer.json"),
        Path(SLUG, "templates", "base.html"),
    ):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub("|".join(values), lambda match: values[match[0]], text), encoding="utf-8", newline="\n")


def insert_application(command: str) -> str:
    return command.replace("{app}", f"{SLUG}.asgi:application")


def develop_command(server: Server) -> str:
    with_sqlite = server.develop_with_sqlite if ANSWERS["database"] == "sqlite" else ""
    return insert_application(server.develop + with_sqlite)


def python_literal(text: str) -> str:
    """Return the text as a Python string literal, formatted as by ruff."""
    # JSON escapes the same characters as Python, except for invisible ones, such as marks of the text direction.
    body = "".join(
        character if character.isprintable() else f"\\U{ord(character):08x}"
        for character in json.dumps(text, ensure_ascii=False)[1:-1]
    )
    if text.count('"') > text.count("'"):
        literal = "'" + body.replace('\\"', '"').replace("'", "\\'") + "'"
    else:
        literal = f'"{body}"'
    # The formatter would put a string that is about as long as a line into parentheses.
    width = len(literal) if literal.isascii() else 2 * len(literal)
    return f"{literal}  # fmt: skip" if width > 80 else literal


def markdown_text(text: str) -> str:
    """Return the text on one line, escaped for Markdown."""
    return re.sub(r"([\\`*_\[\]<>&#|~])", r"\\\1", " ".join(text.split())) or SLUG


def write_env() -> None:
    """Create `.env` from `.env.example`, with a new secret key; keep an existing file. Only its owner can read it."""
    env = Path(".env")
    if env.exists():
        if env.stat().st_mode & 0o077 and os.name == "posix":
            env.chmod(0o600)
            print(
                "Other users of this machine could read .env. Its mode is now 600, so that only you can. Its content is unchanged."
            )
        return
    text = Path(".env.example").read_text(encoding="utf-8")
    env.touch(mode=0o600)
    env.write_text(
        text.replace("DJANGO_SECRET_KEY=", f"DJANGO_SECRET_KEY={secrets.token_urlsafe(50)}", 1),
        encoding="utf-8",
        newline="\n",
    )


def lock_dependencies() -> None:
    """Create uv.lock. Without uv or a network, print what to do later instead of failing."""
    uv = shutil.which("uv")
    if uv is None:
        print("uv is not installed, so uv.lock was not created. Run `pip install uv`, then `uv lock`.")
        return

    import subprocess

    try:
        # Any supported Python can lock, so uv need not download the version in `.python-version` first.
        request = f">={ANSWERS['__oldest_python'][ANSWERS['django_version']]}"
        subprocess.run(
            [uv, "lock", "--quiet", "--python", request], check=True, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail: Iterable[str] = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        print("uv could not lock the dependencies; run `uv lock` later.", *detail)


def print_next_steps(server: Server) -> None:
    if ANSWERS["database"] == "postgresql":
        print(
            "\nStart PostgreSQL first: `docker compose up --detach postgres`, or set DATABASE_URL in .env to your own."
        )
    print(f"\nYour project is ready. Next, run:\n\n  cd {SLUG}")
    print(f"  uv run manage.py migrate\n  uv run {develop_command(server)}\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        # cookiecutter exits immediately, too, and would leave an incomplete project.
        project = Path.cwd()
        if not OVERWRITES_PROJECT:
            os.chdir(project.parent)
            shutil.rmtree(project)
        sys.exit("Stopped; nothing was generated." if not OVERWRITES_PROJECT else f"Stopped; {project} is incomplete.")
