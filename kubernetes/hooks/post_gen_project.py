"""Remove the files that are empty with these answers."""

from pathlib import Path

for name in ("uploads.yaml", "worker.yaml"):
    if not Path(name).read_text().strip():
        Path(name).unlink()
