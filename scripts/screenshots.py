"""Take the README's pictures of each starter, with something on its pages: `make screenshots`."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal, TypedDict

from playwright.sync_api import ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.template import generate, make_environment

FOLDER = ROOT / "docs" / "screenshots"


class PageOptions(TypedDict):
    color_scheme: Literal["light", "dark"]
    viewport: ViewportSize


VIEWS: dict[str, PageOptions] = {
    "light": {"color_scheme": "light", "viewport": {"width": 960, "height": 600}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 960, "height": 600}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 640}},
}
# Shell commands that fill the database.
CONTENTS = {
    "chat": """
from chat.models import Room
for user, text in [
    ("ada", "Does the engine weave patterns yet?"),
    ("charles", "It does, the operation cards arrived this morning."),
    ("ada", "Then I will bring the note on Bernoulli numbers to the meeting."),
    ("Guest 7kqm2xvd", "May a guest listen?"),
    ("charles", "Of course. We start at five."),
]:
    Room.store_message("analytical-engine", user, text)
""",
    "live": """
from status.models import *
times = {"Website": (180, 90), "API": (320, 240), "Search": (900, 700), "Payments": (150, 60), "Mail": (600, 1600)}
for number, (name, (base, spread)) in enumerate(times.items()):
    service = Service.objects.create(name=name, url=f"https://{name.lower()}.example.com/")
    for step in range(30):
        ms = base + (step * 37 + number * 11) % 10 * spread // 10
        state = "down" if name == "Mail" and step > 26 else "slow" if ms >= 1000 else "up"
        detail = "500" if state == "down" else "200"
        Result.objects.create(service=service, state=state, milliseconds=ms, detail=detail)
""",
}
PAGES = {"blank": "/", "wiki": "/wiki/Python", "chat": "/chat/analytical-engine/", "live": "/"}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    program = shutil.which("chromium") or sys.exit("Chromium is not installed: on Debian, `apt-get install chromium`.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        python = make_environment("5.2", Path(folder) / "requirements")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for starter, path in PAGES.items():
            project = generate(Path(folder) / starter, project_name="My Site", starter=starter)
            project.python = python
            project.manage("migrate")
            project.manage("shell", "--command", CONTENTS.get(starter, ""))
            with project.run_server() as server:
                for name, options in VIEWS.items():
                    page = browser.new_page(base_url=server.url, **options)
                    page.goto(path)
                    page.wait_for_timeout(500)
                    page.screenshot(path=FOLDER / f"{starter}-{name}.png")
                    page.close()


if __name__ == "__main__":
    main()
