"""Report words of our own where Django, asyncio or ASGI already have one: `python scripts/prose.py`.

A reader who knows Django should not have to learn a second word for the same thing. The list grows with each review.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".md", ".py", ".html", ".json", ".toml", ".yaml", ".yml", ".css", ".js", ""}
# Records of the past, generated files, and this list itself.
SKIPPED = (
    "CHANGELOG.md",
    "example/",
    "docs/reference/serving.md",
    "scripts/prose.py",
    "tests/test_prose.py",
)

# Regular expressions, which ignore case, and what to say instead.
PHRASES = {
    r"who answered": "which server responded",
    r"a thread for each": "one thread per …",
    r"goes? away and returns?": "an outage",
    r"(a|an|at|at a|at the|in the|of a|of the|the) stop(?= *[.,:;)|]|$| (the|each|is|ends|goes|lets|of)\b)": "graceful shutdown",
    r"log's lines?": "access log",
    r"kept connections?": "persistent connections",
    r"farewells?": "closed by the server",
    r"the board's stream": "event stream",
    r"(a|each|every|one) round": "check run",
    r"believe[sd]?": "trust",
    r"without leftovers": "no unused code",
    r"the way of a request": "how a request is handled",
    r"nothing to take out": "nothing to remove",
    r"the template goes on": "projects can pull in later template changes",
    r"gives? (tasks|what failed|it) back|gives? back": "requeue, release, return",
    r"sees? to (it|that|this)": "handles",
    r"is no character": "invalid characters",
    r"some(one|body) who may": "a user with …",
    r"not (checked )?lately": "not recently",
    r"one after the other,? or all at once": "sequentially or concurrently",
    r"is quick there": "fast, with the figure",
    r"proven to be": "tested",
    r"measures? again": "rerun the benchmarks",
    r"ends? the start": "stops startup",
    r"set up for real use": "tuned for production",
    r"much writing": "write-heavy",
    r"nobody caught": "uncaught",
    r"wrong variables?": "invalid environment variable",
    r"len[dt]s?|lending|borrow(s|ed|ing)?|loans?": "acquire and release, executor, context",
    r"patien(t|ce|tly)": "graceful, timeout",
    r"(?<!\.)mend(s|ed|ing)?": "fix",
    r"without a word( from)?": "without notice, without involving",
}  # fmt: skip
# Names that were once in the code.
NAMES = [
    *("Loan", "borrow_threads", "OnLoop", "needs_thread", "INSTEAD", "LimitedBody", "ThreadPerCall", "be_patient"),
    *("PatientServer", "close_if_quick", "while_connected", "make_response_in_thread", "has_async_view", "pass_on"),
    *("be_present", "all_at_once", "one_after_the_other", "tell_staff", "try_again", "AT_ONCE", "reason_to_refuse"),
    *("fill_in", "say_what_is_next"),
]
PATTERNS = {re.compile(rf"\b({phrase})(?!\w)", re.IGNORECASE): instead for phrase, instead in PHRASES.items()}
PATTERNS[re.compile(rf"\b({'|'.join(NAMES)})\b")] = "the name that asyncio, ASGI or Django has for it"


def find_words(text: str) -> list[tuple[int, str, str]]:
    """Return the line number, the words and what to say instead, for each match."""
    return [
        (number, match[0], instead)
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, instead in PATTERNS.items()
        for match in pattern.finditer(line)
    ]


def main() -> None:
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    files = [name for name in tracked if name and Path(name).suffix in SUFFIXES and not name.startswith(SKIPPED)]
    found = [
        f"{name}:{number}: {words!r}; say: {instead}"
        for name in files
        if (ROOT / name).is_file()
        for number, words, instead in find_words((ROOT / name).read_text(encoding="utf-8"))
    ]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
