"""Take the README's screenshots of each starter, with content on its pages: `make screenshots`."""

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
    "notifications": """
from notifications.models import Notification
ada = User.objects.create_user("ada", password="analytical-engine")
for text, is_read in [
    ("Welcome. Here you see what is new for you.", True),
    ("Charles has shared a drawing with you: Mill, side view", True),
    ("Your order of 50 punched cards is on its way.", False),
    ("Luigi has answered your note on Bernoulli numbers.", False),
    ("On Sunday from 2 to 3 the engine is oiled.", False),
]:
    Notification.objects.create(user=ada, text=text, url="/accounts/", is_read=is_read)
""",
    "game": """
from accounts.models import User
from game.models import Table
ada, grace = [User.objects.create_user(name) for name in ("ada", "grace")]
id = "7b0a4c52-5a3b-4d0e-9c86-3f1f2f6f0d11"
Table.objects.create(pk=id, red=ada)
Table.act(id, grace.pk, {"version": 1, "action": "sit"})
for version, column in enumerate((3, 3, 4, 2, 2, 4, 4, 5, 1, 3, 3, 5), start=2):
    player = ada if version % 2 == 0 else grace
    Table.act(id, player.pk, {"version": version, "action": "drop", "column": column})
""",
    "assistant": '''
from assistant.models import *
user = get_user_model().objects.create_user("ada", "", "analytical-engine")
conversation = Conversation.objects.create(user=user, title="What does ASGI change for a Django view?")
text = """An **async view** gives its thread back while it waits:

| the view waits for | better as |
| --- | --- |
| the database | `def` |
| another service | `async def` |

```python
async def weather(request):
    response = await client.get(URL)
    return HttpResponse(response.text)
```
"""
now = timezone.now()
values = {"conversation": conversation, "question": conversation.title, "text": text, "state": "complete"}
Answer.objects.create(**values, started=now, seen=now)
''',
}
PAGES = {
    "blank": "/",
    "wiki": "/wiki/Python",
    "chat": "/chat/analytical-engine/",
    "live": "/",
    "api": "/api/docs",
    "notifications": "/notifications/",
    "game": "/tables/7b0a4c52-5a3b-4d0e-9c86-3f1f2f6f0d11/",
    "assistant": "/conversations/1/",
}


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
                    if "/accounts/login/" in page.url:
                        page.get_by_label("Username").fill("ada")
                        page.get_by_label("Password").fill("analytical-engine")
                        page.get_by_role("main").get_by_role("button", name="Sign in").click()
                    page.wait_for_timeout(500)
                    page.screenshot(path=FOLDER / f"{starter}-{name}.png")
                    page.close()


if __name__ == "__main__":
    main()
