"""Reject invalid answers and folders before anything is generated.

answer_checks.py already checks answers at the prompt. A file for --replay can contain other answers.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ANSWERS: dict[str, Any] = json.loads(r"""{{ cookiecutter | jsonify }}""")
# Answers from the command line and the user's configuration, before cookiecutter rendered them.
RAW_ANSWERS: dict[str, Any] = json.loads(r"""{{ (_cookiecutter if _cookiecutter is defined else {}) | jsonify }}""")
# The filters of answer_checks.py.
ERRORS: dict[str, str | None] = json.loads(
    r"""{
        "project_name": {{ cookiecutter.project_name | name_error | jsonify }},
        "project_slug": {{ cookiecutter.project_slug | slug_error | jsonify }}
    }"""
)
MIN_FREE_BYTES = 5_000_000  # several times the size of a project


def template_error() -> str | None:
    """Return an error message if cookiecutter rendered the name as a template, or None."""
    name, raw_name = ANSWERS["project_name"], RAW_ANSWERS.get("project_name", "")
    # The order of the characters matters: this file is a template, too.
    if re.search("{[#%{]", raw_name) and name != raw_name:
        return (
            f"project_name {name[:80]!r} cannot be used: cookiecutter rendered {raw_name[:80]!r}, from the command line or "
            "your configuration, as a template. Remove it there, and enter the name at the prompt."
        )
    return None


def choice_error() -> str | None:
    """Return an error message if an answer, such as one from --replay, is not among its choices, or None."""
    questions = Path(ANSWERS.get("_repo_dir", ""), "cookiecutter.json")
    if not questions.is_file():
        return None
    for question, choices in json.loads(questions.read_text(encoding="utf-8")).items():
        if isinstance(choices, list) and not question.startswith("_") and ANSWERS[question] not in choices:
            return f"{question} {ANSWERS[question]!r} cannot be used: the choices are {', '.join(choices)}."
    return None


def find_symbolic_link(slug: str) -> Path | None:
    """Return a symbolic link in an existing folder that generation would write to, or None."""
    repository = Path(ANSWERS.get("_repo_dir", ""))
    written = {Path(".env"), Path("uv.lock"), Path("_parts")}
    # This file is rendered, so it cannot name the folder as the template does.
    for source in repository.glob("*cookiecutter.project_slug*/**/*"):
        parts = [slug if "project_slug" in part else part for part in source.relative_to(repository).parts[1:]]
        written.add(Path(*(parts[3:] if parts[0] == "_parts" else parts)))
    return next((path for path in sorted(written) if path.is_symlink()), None)


def main() -> None:
    if sentence := template_error() or choice_error():
        sys.exit(sentence)
    for question, reason in ERRORS.items():
        if reason:
            sys.exit(f"{question} {ANSWERS[question][:80]!r} cannot be used: {reason}.")
    if shutil.disk_usage(".").free < MIN_FREE_BYTES:
        sys.exit(
            f"There is not enough disk space in {Path.cwd().parent}: less than {MIN_FREE_BYTES // 1_000_000} MB are free."
        )
    if link := find_symbolic_link(ANSWERS["project_slug"]):
        sys.exit(
            f"{link} is a symbolic link, and generation would overwrite its target. Move it, or generate into another folder."
        )
    if any(Path().iterdir()):
        # With --overwrite-if-exists, post_gen_project.py must not delete files that were there before.
        Path("_parts").mkdir(exist_ok=True)
        Path("_parts", "OVERWRITTEN").touch()


if __name__ == "__main__":
    main()
