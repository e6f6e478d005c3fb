"""Finish the generated project: choose its parts, fill in the server, write .env, lock the dependencies.

The answers come in as data (`ANSWERS`); what differs between servers is one entry of `SERVERS`.
"""

import json
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | jsonify }}""")
SLUG = ANSWERS["project_slug"]

# `command` is what the Procfile, the Dockerfile and the README run: PORT and WEB_CONCURRENCY come from the
# environment, requests in flight get 10 seconds at a stop, a WebSocket message may have 1 MiB, and a connection stays
# open for longer than proxies keep it (60 s in nginx and at AWS), or they would use one that was just closed. `serving/proxy.py`
# reads the proxy's headers, the same on every server, so the servers' own readers of them stay off. What a server needs
# besides, because its command line has no option for it, is in _parts/servers/<name>/. `develop` waits for one second, or an open
# event stream would hold up each reload.
SERVERS = {
    "uvicorn": {
        "dependency": "uvicorn[standard]>=0.54,<1",
        "command": "uvicorn {app} --host 0.0.0.0 --port ${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --timeout-keep-alive 75 --timeout-graceful-shutdown 10 --ws-max-size 1048576 --no-proxy-headers --no-access-log",
        "develop": "uvicorn {app} --reload --timeout-graceful-shutdown 1",
    },
    "daphne": {
        "dependency": "daphne>=4.2.3,<5",
        "command": "daphne {app} --bind 0.0.0.0 --port ${PORT:-8000} --verbosity 0"
        " --application-close-timeout 10 --websocket-max-message-size 1048576",
        "develop": "manage.py runserver",
    },
    "hypercorn": {
        "dependency": "hypercorn>=0.18,<1",
        "command": "hypercorn {app} --bind 0.0.0.0:${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --keep-alive 75 --graceful-timeout 10 --config file:hypercorn.conf.py",
        "develop": "hypercorn {app} --reload --graceful-timeout 1",
    },
    "gunicorn": {
        "dependency": "gunicorn>=27,<28",
        "extra_dependencies": ["uvicorn[standard]>=0.54,<1", "uvicorn-worker>=0.4,<1"],
        "command": "gunicorn {app} --bind 0.0.0.0:${PORT:-8000} --workers ${WEB_CONCURRENCY:-1}"
        " --keep-alive 75 --graceful-timeout 12",
        # gunicorn's own --reload does not end uvicorn's workers.
        "develop": "uvicorn {app} --reload --timeout-graceful-shutdown 1",
    },
    "granian": {
        "dependency": "granian[reload]>=2.8.3,<3",
        # Where HTTP/2 is possible, a connection that says nothing stays open without limit.
        "command": "granian {app} --interface asgi --http 1 --host 0.0.0.0 --port ${PORT:-8000}"
        " --workers ${WEB_CONCURRENCY:-1} --backpressure 10000 --workers-kill-timeout 10"
        # Also for the next request on an idle connection; it can be no longer.
        " --http1-header-read-timeout 60000"
        " --respawn-failed-workers --log-level warning",
        "develop": "granian {app} --interface asgi --reload --workers-kill-timeout 1",
        # Or each write to the database would restart it.
        "develop_with_sqlite": " --reload-ignore-patterns sqlite3",
    },
}


# What belongs to one answer each. A slug cannot begin with _, and nobody calls a folder of their own so.
PARTS = Path("_parts")
OVERWRITTEN = Path(PARTS, "OVERWRITTEN").exists()  # by pre_gen_project.py


def main():
    server = SERVERS[ANSWERS["server"]]
    about = Path(PARTS, "starters", ANSWERS["starter"], "ABOUT.md")
    about_starter = about.read_text(encoding="utf-8") + "\n" if about.exists() else ""
    about.unlink(missing_ok=True)
    move_to_root(Path(PARTS, "starters", ANSWERS["starter"]))
    move_to_root(Path(PARTS, "pipelines", ANSWERS["ci"]))
    move_to_root(Path(PARTS, "servers", ANSWERS["server"]))
    move_to_root(Path(PARTS, "django", ANSWERS["django_version"]))
    shutil.rmtree(PARTS)
    if not ANSWERS["__channels"]:
        Path(SLUG, "routing.py").unlink()
        Path(SLUG, "serving", "channel_layer.py").unlink()
        Path(SLUG, "serving", "origin.py").unlink()
        if ANSWERS["server"] == "granian":
            Path(SLUG, "serving", "hardening.py").unlink()
    fill_in(
        {
            "@SITE_NAME@": python_literal(ANSWERS["project_name"]),
            "@TITLE@": markdown_text(ANSWERS["project_name"]),
            "@ABOUT@\n": about_starter,
            "@SERVER_DEPENDENCIES@": ",\n".join(
                f'    "{name}"' for name in sorted([server["dependency"], *server.get("extra_dependencies", [])])
            ),
            "@SERVER_COMMAND@": command(server["command"]),
            "@SERVER_DEVELOP@": develop_command(server),
        }
    )
    write_env()
    lock_dependencies()
    say_what_is_next(server)


def move_to_root(chosen: Path) -> None:
    """Move what is in the folder `chosen`, which some answers lack, to the root of the project."""
    for source in sorted(chosen.rglob("*")):
        target = source.relative_to(chosen)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)


def fill_in(values):
    """Put in what needs escaping or comes from the table of servers, which the template's own language cannot do."""
    for path in (
        Path(SLUG, "settings.py"),
        Path("pyproject.toml"),
        Path("README.md"),
        Path("Procfile"),
        Path("Dockerfile"),
        Path(".devcontainer", "devcontainer.json"),
    ):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub("|".join(values), lambda match: values[match[0]], text), encoding="utf-8", newline="\n")


def command(line):
    return line.replace("{app}", f"{SLUG}.asgi:application")


def develop_command(server):
    with_sqlite = server.get("develop_with_sqlite", "") if ANSWERS["database"] == "sqlite" else ""
    return command(server["develop"] + with_sqlite)


def python_literal(text):
    """The text as a Python string in the form that ruff's formatter gives it."""
    # JSON escapes what Python does, but for characters that cannot be seen, such as those that turn the direction.
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


def markdown_text(text):
    """The text on one line of Markdown, as itself."""
    return re.sub(r"([\\`*_\[\]<>&#|~])", r"\\\1", " ".join(text.split())) or SLUG


def write_env() -> None:
    """Write `.env`: `.env.example` with a secret key of its own. One that is there keeps its content. Nobody else may read either."""
    env = Path(".env")
    if env.exists():
        if env.stat().st_mode & 0o077 and os.name == "posix":
            env.chmod(0o600)
            print(
                ".env could be read by other users of this machine. It is yours alone now (mode 600); what it says did not change."
            )
        return
    text = Path(".env.example").read_text(encoding="utf-8")
    env.touch(mode=0o600)
    env.write_text(
        text.replace("DJANGO_SECRET_KEY=", f"DJANGO_SECRET_KEY={secrets.token_urlsafe(50)}", 1),
        encoding="utf-8",
        newline="\n",
    )


def lock_dependencies():
    """Let uv write uv.lock. Without uv or without a network, say what to do later: that is no failure."""
    uv = shutil.which("uv")
    if uv is None:
        print("uv is not installed, so the dependencies are not locked: `pip install uv`, then run `uv lock`.")
        return

    import subprocess

    try:
        # Any Python that the project supports can lock: uv need not download that of `.python-version` first.
        request = f">={ANSWERS['__oldest_python'][ANSWERS['django_version']]}"
        subprocess.run(
            [uv, "lock", "--quiet", "--python", request], check=True, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        print("uv could not lock the dependencies; run `uv lock` later.", *detail)


def say_what_is_next(server):
    if ANSWERS["database"] == "postgresql":
        print("\nPostgreSQL first: `docker compose up --detach postgres`, or set DATABASE_URL in .env to one you have.")
    print(f"\nYour project is ready. Type next:\n\n  cd {SLUG}")
    print(f"  uv run manage.py migrate\n  uv run {develop_command(server)}\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        # cookiecutter ends at once, too, and leaves half a project.
        project = Path.cwd()
        if not OVERWRITTEN:
            os.chdir(project.parent)
            shutil.rmtree(project)
        sys.exit("Stopped; nothing was generated." if not OVERWRITTEN else f"Stopped in the middle of {project}.")
