"""Remove what was not asked for."""

from pathlib import Path

worker = Path("worker.yaml")
if not worker.read_text().strip():
    worker.unlink()
