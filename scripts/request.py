"""Draw request.svg, how a generated project handles a request: `python scripts/request.py`."""

from pathlib import Path

STYLE = """
    text { font: 14px system-ui, sans-serif; fill: #1c2430; text-anchor: middle }
    .small { font-size: 12px; fill: #5a6675 }
    rect { fill: #f4f7f6; stroke: #0c6b58; stroke-width: 1.5 }
    .area { fill: none; stroke: #9aa6b2; stroke-dasharray: 4 4 }
    path { fill: none; stroke: #5a6675; stroke-width: 1.5; marker-end: url(#head) }
    #head path { fill: #5a6675; stroke: none; marker-end: none }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6ebf0 }
      .small { fill: #9aa6b2 }
      rect { fill: #16211f; stroke: #58c9ae }
      path { stroke: #9aa6b2 }
      #head path { fill: #9aa6b2 }
    }
"""
# (x, y, width, title, text): x and y are the top left corner. In pixels.
BOXES = [
    (20, 130, 120, "Browser", ""),
    (180, 130, 130, "ASGI server", "uvicorn, granian …"),
    (350, 130, 130, "Proxy headers", "client and scheme"),
    (530, 30, 150, "Consumers", "Channels: WebSockets"),
    (530, 130, 150, "Static files", "sent without Django"),
    (530, 230, 150, "Body limit", "413 if too large"),
    (740, 230, 150, "ASGIHandler", "sync or async view?"),
    (740, 130, 150, "async view", "and its middleware"),
    (740, 350, 150, "sync view", "and its middleware"),
]
ARROWS = [
    "M140 155 H176",
    "M310 155 H346",
    "M480 155 C505 155 505 55 526 55",
    "M480 155 H526",
    "M605 180 V226",
    "M680 255 H736",
    "M815 230 V184",
    "M815 280 V346",
]
LABELS = [(492, 92, "ws"), (503, 178, "http"), (868, 210, "on the loop"), (868, 315, "in a thread")]
AREAS = [(165, 10, 745, 290, "one event loop"), (720, 330, 190, 80, "ASGI_THREADS threads")]


def main() -> None:
    parts = [f'<rect class="area" x="{x}" y="{y}" width="{w}" height="{h}" rx="10"/>' for x, y, w, h, _ in AREAS]
    parts += [
        f'<text class="small" x="{x + w / 2 if h > 100 else x - 75}" y="{y + h + 18 if h > 100 else y + 45}">{title}</text>'
        for x, y, w, h, title in AREAS
    ]
    parts += [f'<path d="{path}"/>' for path in ARROWS]
    for x, y, width, title, text in BOXES:
        parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="50" rx="8"/>')
        parts.append(f'<text x="{x + width / 2}" y="{y + (22 if text else 30)}">{title}</text>')
        if text:
            parts.append(f'<text class="small" x="{x + width / 2}" y="{y + 40}">{text}</text>')
    parts += [f'<text class="small" x="{x}" y="{y}">{text}</text>' for x, y, text in LABELS]
    body = "\n  ".join(parts)
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker>'
    title = "<title>How a request is handled: server, proxy headers, static files, body limit, handler, view</title>"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 930 420" role="img">\n  {title}\n  <style>{STYLE}  </style>\n  <defs>{head}</defs>\n  {body}\n</svg>\n'
    (Path(__file__).parents[1] / "docs" / "explanation" / "request.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
