"""The word list of `make check` finds what it is for, and nothing in ordinary sentences."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.prose import find_words
from tests.template import ROOT


@pytest.mark.parametrize(
    "line",
    [
        "At a stop, requests in flight are answered.",
        "# be_patient() waits for the server",
        "A page that says who answered.",
        "Serving/hardening.py sees to that.",
        "The headers are believed from this proxy.",
    ],
)
def test_words_of_our_own_are_found(line: str) -> None:
    assert len(find_words(f"A good line.\n{line}")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "Graceful shutdown completes in-flight requests.",
        "Stop the server with Ctrl-C; `make stop-table` writes the table.",
        "recommended",
        "The browser trusts the certificate.",
    ],
)
def test_ordinary_words_are_not_found(line: str) -> None:
    assert find_words(line) == []


def test_misspelled_words_are_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"We rec{'ie'}ve the colo{'u'}r.\n")
    codespell = Path(sys.executable).with_name("codespell")
    command = [str(codespell), "--toml", str(ROOT / "pyproject.toml"), "page.md"]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "==> receive" in result.stdout and "==> color" in result.stdout
