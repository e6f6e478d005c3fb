"""Measure generation against an empty template with two hooks that do nothing: the median of ten runs of each."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        (empty / "{{cookiecutter.project_slug}}").mkdir(parents=True)
        (empty / "hooks").mkdir()
        (empty / "cookiecutter.json").write_text(json.dumps({"project_slug": "site"}))
        for hook in ("pre_gen_project", "post_gen_project"):
            (empty / "hooks" / f"{hook}.py").write_text("pass\n")
        times: dict[Path, list[float]] = {ROOT: [], empty: []}
        for number in range(11):
            for template, measured in times.items():
                seconds = generate(template, Path(folder) / f"{template.name}-{number}")
                if number:  # the first is for warming up
                    measured.append(seconds)
        ours, baseline = median(times[ROOT]), median(times[empty])
        print(f"defaults {ours:.3f} s, empty template {baseline:.3f} s: {ours / baseline:.2f} times")


def generate(template: Path, output: Path) -> float:
    """Return the seconds that cookiecutter takes."""
    environment = os.environ | {"PATH": ""}  # without uv: locking is not measured
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", str(output), str(template)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
