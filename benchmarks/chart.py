"""Draw chart.svg, for the README, from results.json."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
VIEWS = {
    "async_hello": "async view",
    "sync_hello": "sync view",
    "async_query": "async view, one query",
    "sync_query": "sync view, one query",
}
CANDIDATES = {
    "stock ASGI, uvicorn, postgresql": ("stock", "Django under ASGI"),
    "WSGI, gunicorn gthread, postgresql": ("wsgi", "Django under WSGI"),
    "generated, uvicorn, postgresql": ("ours", "this template"),
}
LABEL_WIDTH, BAR_WIDTH, CHART_WIDTH, ROW_HEIGHT = 170, 390, 720, 22  # pixels
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2326 }
.quiet { fill: #5a666b } .stock { fill: #b9c2c5 } .wsgi { fill: #7d8c92 } .ours { fill: #0c6b58 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaeb } .quiet { fill: #9aa7ac } .stock { fill: #4a555a } .wsgi { fill: #7d8c92 } .ours { fill: #5fd0b4 }
}
"""


def main() -> None:
    results = json.loads((FOLDER / "results.json").read_text())["Django 5.2"]["candidates"]
    maximum = max(results[name][view] for name in CANDIDATES for view in VIEWS)
    parts, y = [], 30
    for view, title in VIEWS.items():
        parts.append(f'<text x="0" y="{y + 1.5 * ROW_HEIGHT + 4}">{title}</text>')
        stock = results["stock ASGI, uvicorn, postgresql"][view]
        for name, (kind, label) in CANDIDATES.items():
            value = results[name][view]
            width = BAR_WIDTH * value / maximum
            parts.append(
                f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{ROW_HEIGHT - 4}" rx="3"/>'
            )
            note = f"{label}: {value:,.0f}" if view == "async_hello" else f"{value:,.0f}"
            times = "" if kind == "stock" else f" ({value / stock:.1f} ×)"
            parts.append(f'<text class="quiet" x="{LABEL_WIDTH + width + 8:.1f}" y="{y + 13}">{note}{times}</text>')
            y += ROW_HEIGHT
        y += 14
    title = "Requests per second on one core, PostgreSQL, 32 clients"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {CHART_WIDTH + 60} {y}" role="img" aria-label="{title}">'
        f'<style>{STYLE}</style><text x="0" y="14">{title}</text>{"".join(parts)}</svg>\n'
    )
    (FOLDER / "chart.svg").write_text(svg)


if __name__ == "__main__":
    main()
