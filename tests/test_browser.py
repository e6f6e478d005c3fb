"""The pages in a real browser, with production's Content-Security-Policy and no errors on the console."""

import re
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Protocol, Unpack

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, Route, expect, sync_playwright

from tests.language_model import run_language_model
from tests.template import (
    CONTENT_SECURITY_POLICY,
    IN_CI,
    ROOT,
    Answers,
    MakeProject,
    Project,
    RunNginx,
    Server,
    also_in_test_all,
    code_blocks,
    edit,
    first_match,
    free_port,
    page_text,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DISCONNECT_ERRORS = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET"


class OpenPage(Protocol):
    def __call__(
        self, url: str, expected: str | None = None, path: str = "/", **options: Any
    ) -> AbstractContextManager[Page]: ...


class RunProject(Protocol):
    def __call__(
        self, added: Path | None = None, **answers: Unpack[Answers]
    ) -> AbstractContextManager[tuple[Project, Server]]: ...


@pytest.fixture(scope="module")  # not longer: its event loop runs in this thread until it is closed
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


def launch(playwright: Playwright, *options: str, channel: str | None = None) -> Browser:
    # Without its sandbox, since tests may run as root in a container; and a page that went through `add_policy`
    # counts as one from the internet, which may not open WebSockets to this machine.
    args = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks", *options]
    try:  # that of the system, or the one that `playwright install chromium` has put beside it
        return playwright.chromium.launch(executable_path=CHROMIUM, channel=channel, args=args)
    except Error as error:
        if IN_CI:
            pytest.fail(str(error))
        pytest.skip("Chromium is not installed")


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    with closing(launch(playwright)) as browser:
        yield browser


@pytest.fixture
def window(playwright: Playwright) -> Iterator[BrowserContext]:
    """A window with tabs, of which one is visible. All pages of `chromium` count as visible."""
    port = free_port()
    # The channel is the whole browser, not the shell that has no window.
    with closing(launch(playwright, f"--remote-debugging-port={port}", channel="chromium")):
        browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}", no_defaults=True)
        [context] = browser.contexts
        context.set_default_timeout(20_000)
        yield context


@pytest.fixture
def open_page(chromium: Browser) -> OpenPage:
    """`with open_page(url) as page`: fails if the console has other messages than those that `expected` matches."""

    @contextmanager
    def open_page(url: str, expected: str | None = None, path: str = "/", **options: Any) -> Iterator[Page]:
        context = chromium.new_context(base_url=url, **options)
        context.set_default_timeout(20_000)
        page = context.new_page()
        console: list[str] = []
        requests: list[str] = []
        context.route("**/*", add_policy)
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path)
        yield page
        context.close()
        assert [text for text in console if not (expected and re.search(expected, text))] == []
        assert [each for each in requests if not each.startswith((f"{url}/", "data:"))] == []

    return open_page


def add_policy(route: Route) -> None:
    if route.request.resource_type == "document":
        response = route.fetch(max_redirects=0)
        route.fulfill(
            response=response, headers=response.headers | {"content-security-policy": CONTENT_SECURITY_POLICY}
        )
    else:
        route.continue_()


def check_accessibility(
    page: Page, *disabled_rules: str, schemes: Collection[Literal["light", "dark"]] = ("light", "dark")
) -> None:
    """No violation of WCAG 2.2 AA or of axe-core's best practices, in these color schemes; and the page has a description."""
    rules = {rule: {"enabled": False} for rule in disabled_rules}
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        # While colors change, axe-core would measure those in between.
        page.wait_for_timeout(100)
        for _ in range(20):
            if page.evaluate("document.getAnimations().some(each => each.playState === 'running')"):
                page.wait_for_timeout(50)
        found = Axe().run(page, options={"resultTypes": ["violations"], "rules": rules}).response
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
        assert len(found["passes"]) > 10
    description = page.locator("meta[name=description]").get_attribute("content")
    assert description and description.strip()


@pytest.fixture
def run_project(make_project: MakeProject) -> RunProject:
    """A project in development, by its Procfile line."""

    @contextmanager
    def run(added: Path | None = None, **answers: Unpack[Answers]) -> Iterator[tuple[Project, Server]]:
        project = make_project(**answers)
        if added:
            shutil.copytree(added, project.path, dirs_exist_ok=True)
        project.manage("migrate")
        with project.run_server() as server:
            yield project, server

    return run


@pytest.mark.parametrize(("starter", "slash"), [("live", ""), ("chat", "/")], ids=["whole-path", "path-taken-off"])
def test_below_a_path(
    starter: str,
    slash: str,
    make_production_project: MakeProject,
    run_nginx: RunNginx,
    open_page: OpenPage,
) -> None:
    """Files, sign-in, the admin, an event stream, a WebSocket and its page, behind nginx, as docs/how-to/deploying.md says."""
    project = make_production_project(starter=starter)
    project.environment["DJANGO_SCRIPT_NAME"] = "/app"
    with project.run_server() as running, running.client() as client:
        files = re.findall(r'(?:href|src)="(/app/static/[^"]+)"', client.get("/app/").text)
        assert [client.get(file).status_code for file in ["/livez", *files]] == [200] * (1 + len(files))
        assert len(files) >= 2
        refused = client.get("/app/accounts/password_change/")
        assert refused.headers["location"] == "/app/accounts/login/?next=/app/accounts/password_change/"
    [location] = code_blocks("deploying.md", "nginx")
    site, port = f"http://127.0.0.1:{free_port()}", free_port()
    upgrade = "map $http_upgrade $connection_upgrade { default upgrade; '' close; } proxy_http_version 1.1;"
    upgrade += "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
    location = location.replace("127.0.0.1:8000;", f"127.0.0.1:{port}{slash};")
    server = f"{upgrade} proxy_set_header Host $http_host; server {{ listen {site[7:]}; {location} }}"
    development = {"DJANGO_ALLOWED_HOSTS": "127.0.0.1", "DJANGO_DEBUG": "true"}
    with (
        project.run_server(port=port, **development),
        run_nginx(server),
        open_page(site, expected="Autofocus processing was blocked", path="/app/") as page,
    ):
        page.get_by_role("link", name="Sign in").click()
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("analytical-engine")
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{site}/app/")
        page.goto("/app/admin/")
        page.get_by_role("link", name="View site").click()
        expect(page).to_have_url(f"{site}/app/")
        if starter == "live":
            page.get_by_role("button", name="Measure").click()
            expect(page.locator("#async-time")).to_have_text(re.compile("ms"))
            with page.expect_response(re.compile("/app/events/")) as stream:
                page.reload()
            assert stream.value.status == 200
        else:
            page.goto("/app/chat/lobby/")
            expect(page.get_by_text("Connected.")).to_be_visible()
        page.locator(".site-name").click()
        expect(page).to_have_url(f"{site}/app/")


REDIRECT_VIEW = """
from django.shortcuts import redirect

def sign_in_elsewhere(request):
    if request.method == "POST":
        return redirect("{provider}/authorize")
    return render(request, "pages/sign_in_elsewhere.html")
"""
FORM = '<form method="post">{% csrf_token %}<button>Sign in elsewhere</button></form>'


class Provider(BaseHTTPRequestHandler):
    """Another site, which signs people in."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b'<link rel="icon" href="data:,"><h1>The provider</h1>')

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[str]:
    """The origin of another site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_redirect_to_a_provider_after_a_form(
    make_production_project: MakeProject, chromium: Browser, provider: str
) -> None:
    """With the policy that the project sends in production: refused, until the provider is added to `form-action`."""
    project, port = make_production_project(), free_port()
    views, urls = project.path / "pages" / "views.py", project.path / "pages" / "urls.py"
    views.write_text(views.read_text() + REDIRECT_VIEW.format(provider=provider))
    (project.path / "pages" / "templates" / "pages" / "sign_in_elsewhere.html").write_text(FORM)
    urls.write_text(urls.read_text() + '\nurlpatterns.append(path("elsewhere/", views.sign_in_elsewhere))\n')
    site = f"http://localhost:{port}"
    variables = {"DJANGO_ALLOWED_HOSTS": "localhost", "DJANGO_CSRF_TRUSTED_ORIGINS": site}
    with closing(chromium.new_context(base_url=site, extra_http_headers={"X-Forwarded-Proto": "https"})) as context:
        page = context.new_page()
        button = page.get_by_role("button", name="Sign in elsewhere")
        with project.run_server(port=port, **variables):
            page.goto("/elsewhere/")
            with page.expect_console_message(lambda message: "form-action" in message.text) as refusal:
                button.click()
            assert f"{site}/elsewhere/" in refusal.value.text  # not the provider, as docs/reference/settings.md says
            expect(page).to_have_url(f"{site}/elsewhere/")
        settings = project.path / "wiki" / "settings.py"
        edit(settings, """"form-action": ["'self'"]""", f""""form-action": ["'self'", "{provider}"]""")
        with project.run_server(port=port, **variables):
            page.goto("/elsewhere/")
            button.click()
            expect(page.get_by_role("heading", name="The provider")).to_be_visible()


def test_students_wiki(run_project: RunProject, open_page: OpenPage) -> None:
    students = ROOT / "tests" / "student"
    with run_project(added=students, starter="wiki") as (project, server), open_page(server.url) as page:
        page.get_by_role("link", name="Django").click()
        expect(page.get_by_role("heading", name="Django")).to_be_visible()
        page.get_by_role("main").get_by_role("link", name="Python").first.click()  # from Markdown
        expect(page.get_by_role("heading", name="Python")).to_be_visible()

        search = page.get_by_role("searchbox")
        search.fill("css")
        search.press("Enter")
        expect(page).to_have_url(re.compile(r"/wiki/css$", re.IGNORECASE))
        search.fill("t")
        search.press("Enter")
        expect(page.locator("h1 + ul a")).to_have_text(["Git", "HTML", "Python"])

        create_entry(page, "git", "again")
        expect(page.get_by_text("There is an entry with this title already.")).to_be_visible()
        create_entry(page, "../up", "out of here")
        expect(page.get_by_text("cannot be a title")).to_be_visible()
        assert not (project.path / "up.md").exists()

        create_entry(page, "Ajax & Co", "# Ajax\n\n**bold** <script>document.title = 'run'</script>\n\nend\n")
        expect(page.locator("strong")).to_have_text("bold")
        expect(page).to_have_title(re.compile("^Ajax & Co"))
        for _ in range(2):
            page.get_by_role("link", name="Edit").click()
            page.get_by_role("button", name="Save").click()
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Content").fill("# Ajax\n\nline\n\nline\n")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("line").first).to_be_visible()
        assert (project.path / "entries" / "Ajax & Co.md").read_bytes() == b"# Ajax\n\nline\n\nline\n"

        page.get_by_role("link", name="Random Page").click()
        expect(page).to_have_url(re.compile("/wiki/"))


def create_entry(page: Page, title: str, content: str) -> None:
    page.get_by_role("link", name="Create New Page").click()
    page.get_by_label("Title").fill(title)
    page.get_by_label("Content").fill(content)
    page.get_by_role("button", name="Save").click()


def test_chat(make_project: MakeProject, open_page: OpenPage) -> None:
    project = make_project(starter="chat")
    project.manage("migrate")
    port, expected = free_port(), f"{DISCONNECT_ERRORS}|WebSocket connection to"
    command = ["uvicorn", "wiki.asgi:application", "--port", str(port)]
    with browse_room(project, command, port, open_page, expected) as (ada, grace, restart):
        send_message(ada, "hello <b>Grace</b>")
        expect(grace.locator(".messages p")).to_have_text(["hello <b>Grace</b>"])
        expect(ada.locator(".messages p")).to_have_text(["hello <b>Grace</b>"])
        expect(ada.locator("#here")).to_have_text(re.compile(r"Guest \w{8}, Guest \w{8}"))
        with restart():
            expect(grace.locator("#status")).to_contain_text("Reconnecting in")
            send_message(grace, "are you there?")
            expect(grace.locator("#status")).to_contain_text("Not connected")
        for page in (ada, grace):
            expect(page.locator(".messages p")).to_have_text(["hello <b>Grace</b>", "are you there?"])
            expect(page.locator("#status")).to_have_text("Connected.")
        check_accessibility(ada)
        ada.keyboard.press("Tab")
        ada.reload()
        expect(ada.locator(".messages p")).to_have_text(["hello <b>Grace</b>", "are you there?"])
        for number in range(15):
            send_message(ada, f"quick {number}")
        expect(ada.locator("#status")).to_contain_text("Too fast")
        expect(ada.locator(".messages p")).to_have_count(17, timeout=15_000)
        expect(grace.locator(".messages p").last).to_have_text("quick 14")


@contextmanager
def browse_room(
    project: Project, command: list[str], port: int, open_page: OpenPage, expected: str
) -> Iterator[tuple[Page, Page, Callable[[], AbstractContextManager[None]]]]:
    """Two pages in one room, and a context manager for an outage of the server."""
    servers: list[AbstractContextManager[Server]] = []

    def start() -> Server:
        servers.append(project.run_process(command, port))
        return servers[-1].__enter__()

    running = [start()]

    @contextmanager
    def restart() -> Iterator[None]:
        running[0].kill()
        yield
        running[0] = start()

    url = running[0].url
    try:
        with open_page(url, expected) as ada, open_page(url, expected) as grace:
            for page in (ada, grace):
                page.get_by_label("Join a room").fill("Lobby")
                page.get_by_role("button", name="Join").click()
                expect(page.locator("#status")).to_have_text("Connected.")
            yield ada, grace, restart
    finally:
        running[0].kill()


def send_message(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def test_game(run_project: RunProject, open_page: OpenPage) -> None:
    """Two players, one of them with the keyboard alone, and a spectator on a phone; a reload shows the same."""
    with run_project(starter="game") as (project, server):
        create = "for name in ('ada', 'grace'): User.objects.create_user(name, '', 'analytical-engine')"
        project.manage("shell", "--command", create)
        phone: dict[str, Any] = {"viewport": {"width": 320, "height": 640}}
        expected = "Autofocus processing was blocked"  # on the sign-in page
        with (
            open_page(server.url, expected) as ada,
            open_page(server.url, expected) as grace,
            open_page(server.url, **phone) as spectator,
        ):
            expect(spectator.get_by_text("Nobody is playing.")).to_be_visible()
            sign_in(ada, "ada")
            ada.get_by_role("button", name="Open a table").click()
            expect(ada.locator("#status")).to_have_text("Waiting for a second player.")
            spectator.get_by_role("link", name="ada is waiting for a second player").click()
            check_accessibility(spectator)
            grace.goto(ada.get_by_label("Link to this table").input_value())
            grace.get_by_role("link", name="Sign in to play").click()
            fill_in_password(grace, "grace")
            press_until_focused(grace, "Tab", "Sit down")
            grace.keyboard.press("Enter")
            expect(ada.locator("#status")).to_have_text("It is your turn.")
            expect(grace.get_by_role("button", name="Column 4")).to_be_focused()
            expect(grace.locator("#status")).to_have_text("It is ada's turn.")
            grace.keyboard.press("4")  # out of turn: nothing happens
            for column in (3, 4, 3, 4, 3):
                expect(ada.locator("#status")).to_contain_text("It is your turn.")
                ada.get_by_role("button", name=f"Column {column}").click()
                expect(grace.locator("#status")).to_have_text(f"ada: column {column}. It is your turn.")
                grace.keyboard.press("ArrowRight")
                grace.keyboard.press("Enter")
            expect(spectator.locator("#status")).to_have_text("grace: column 2. It is ada's turn.")
            for page in (ada, grace, spectator):
                discs = page.locator("td .disc:is(.red, .yellow)")
                expect(discs).to_have_count(10)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            grace.reload()
            expect(grace.locator("td .disc:is(.red, .yellow)")).to_have_count(10)
            check_accessibility(ada)
            ada.get_by_role("cell").nth(2).click()
            expect(ada.locator("#status")).to_have_text("You: column 3. Four in a row: You win.")
            expect(spectator.locator("#status")).to_have_text("ada: column 3. Four in a row: ada wins.")
            expect(spectator.locator("td.line")).to_have_count(4)
            check_accessibility(ada)
            play_again(ada, grace)
            expect(grace.locator("#status")).to_have_text("It is your turn.")
            grace.once("dialog", lambda dialog: dialog.accept())
            grace.get_by_role("button", name="Resign").click()
            expect(ada.locator("#status")).to_have_text("grace resigns: You win.")
            play_again(ada, grace)
            grace.goto("/")
            update = "Table.objects.update(yellow_seen='2020-02-03T04:05:06Z')"
            project.manage("shell", "--command", f"from game.models import Table; {update}")
            ada.reload()
            expect(ada.locator("#status")).to_have_text("It is your turn. Away: grace.")
            ada.get_by_role("button", name="Claim the win").click()
            expect(ada.locator("#status")).to_have_text("grace was away: You win.")
            spectator.get_by_role("link", name="All tables").click()
            expect(spectator.get_by_text("Nobody is playing.")).to_be_visible()


def play_again(one: Page, other: Page) -> None:
    one.get_by_role("button", name="Rematch").click()
    expect(other.locator("#status")).to_contain_text("offers a rematch.")
    other.get_by_role("button", name="Rematch").click()
    expect(one.locator("#status")).to_contain_text("turn.")


def sign_in(page: Page, name: str) -> None:
    page.get_by_role("link", name="Sign in").click()
    fill_in_password(page, name)


def fill_in_password(page: Page, name: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("analytical-engine")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


def press_until_focused(page: Page, key: str, name: str) -> None:
    """Press the key until the button with this name has the focus."""
    button = page.get_by_role("button", name=name)
    expect(button).to_be_visible()
    for _ in range(20):
        page.keyboard.press(key)
        if button.evaluate("button => button === document.activeElement"):
            return
    raise AssertionError(f"{name} cannot be reached by {key}")


def test_live(run_project: RunProject, open_page: OpenPage) -> None:
    with run_project(starter="live") as (project, server):
        add_services(project, server.url)
        with open_page(server.url) as page:
            expect(page.locator(".state")).to_have_text(["not checked recently"] * 2)
            project.manage("check_services", "--once")
            expect(page.locator(".state")).to_have_text(["up", "down"])
            expect(page.locator(".chart rect")).to_have_count(2)
            project.manage("check_services", "--once")
            expect(page.locator(".chart rect")).to_have_count(4)
            page.get_by_role("button", name="Measure").click()
            for view in ("sync", "async"):
                expect(page.locator(f"#{view}-time")).to_have_text(re.compile(r"^\d+ ms$"))
            expect(page.locator("time").first).to_have_attribute("title", re.compile(r", \d{4}.+:\d\d .*(UTC|Time)"))
            check_accessibility(page)
        with open_page(server.url, java_script_enabled=False) as page:
            expect(page.locator("time").first).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC$"))


def test_assistant(make_project: MakeProject, open_page: OpenPage) -> None:
    """Ask, read, stop, try again, load the page in the middle, with two tabs, by keyboard; nothing of the model runs."""
    project = make_project(starter="assistant")
    project.manage("migrate")
    project.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'analytical-engine')")
    answer = (
        "# Title\n\n<script>alert(1)</script> [link](javascript:alert(1)) ![](https://evil.example/) **bold**\n\n- one"
    )
    with (
        run_language_model(answer=answer) as model,
        project.run_server(OPENAI_BASE_URL=model.url) as server,
        open_page(server.url) as page,
    ):
        page.get_by_role("link", name="Sign in to ask").click()
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("analytical-engine")
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        check_accessibility(page)
        page.get_by_label("Your question").fill("hello")
        page.keyboard.press("Enter")
        text = page.locator(".answer .finished").last
        expect(text.locator("strong")).to_have_text("bold")
        expect(text.locator("li")).to_have_text("one")
        assert "<script>alert(1)</script>" in text.inner_text()
        assert text.locator("script, img, a[href]").count() == 0
        expect(page.get_by_role("status")).to_have_text("The answer has ended.")
        check_accessibility(page)

        model.answer = "word " * 2000
        page.get_by_label("Your question").fill("long")
        page.keyboard.press("Enter")
        expect(page.locator(".last").last).to_contain_text("word word word")
        expect(page.get_by_role("status")).to_have_text("The assistant is answering.")
        page.reload()
        expect(page.locator(".last").last).to_contain_text("word " * 30)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.locator(".last").last).to_contain_text("word " * 40)
        assert model.get("long").disconnected_at is None
        check_accessibility(page)
        page.get_by_role("button", name="Stop").focus()
        page.keyboard.press("Enter")
        for tab in (page, other):
            expect(tab.locator(".note")).to_have_text("You stopped the answer.")
            expect(tab.locator(".finished").last).to_contain_text("word word word")
        assert model.get("long").disconnected_at
        page.get_by_role("button", name="Try again").click()
        for tab in (page, other):
            expect(tab.get_by_role("status")).to_have_text("The assistant is answering.")
            expect(tab.locator(".last").last).to_contain_text("word word word")
        page.goto("about:blank")
        page.wait_for_timeout(1000)
        assert model.get("long").disconnected_at is None
        other.close()
        server.wait_until(lambda: model.get("long").disconnected_at, seconds=2)


COUNT_STREAMS = """

async def application(scope, receive, send, inner=application):
    stream = scope.get("path", "").endswith("/events/")
    if stream:
        print("stream opened")
    try:
        await inner(scope, receive, send)
    finally:
        if stream:
            print("stream closed")
"""


def test_seven_tabs_and_the_admin(make_project: MakeProject, window: BrowserContext) -> None:
    """A browser opens six connections to a site over HTTP/1.1: a hidden tab has none, and misses no events."""
    project = make_project(starter="live")
    project.manage("migrate")
    with (project.path / "wiki" / "asgi.py").open("a") as file:
        file.write(COUNT_STREAMS)
    with project.run_server() as server:

        def wait_for_streams(opened: int, closed: int) -> None:
            counts = ("stream opened", "stream closed")
            server.wait_until(lambda: tuple(map(server.output.count, counts)) == (opened, closed), seconds=20)

        add_services(project, server.url)
        tabs = []
        for number in range(1, 8):
            tabs.append(window.new_page())
            tabs[-1].goto(server.url)
            expect(tabs[-1].locator(".state")).to_have_text(["not checked recently"] * 2)
            wait_for_streams(number, number - 1)
        admin = window.new_page()
        admin.goto(f"{server.url}/admin/")
        expect(admin.get_by_label("Username")).to_be_visible()
        with window.expect_page() as opened:
            window.new_cdp_session(admin).send("Target.createTarget", {"url": server.url, "background": True})
        tabs.append(opened.value)
        for tab in tabs:
            expect(tab.get_by_role("heading", name="Status")).to_be_visible()
        assert [tab.evaluate("document.visibilityState") for tab in tabs] == ["hidden"] * 8
        wait_for_streams(7, 7)

        project.manage("check_services", "--once")
        for number, tab in enumerate([tabs[0], tabs[-1]], start=1):
            expect(tab.locator(".chart rect")).to_have_count(0)
            tab.bring_to_front()
            expect(tab.locator(".state")).to_have_text(["up", "down"])
            wait_for_streams(7 + number, 6 + number)
        project.manage("check_services", "--once")
        expect(tabs[-1].locator(".chart rect")).to_have_count(4)
        expect(tabs[0].locator(".chart rect")).to_have_count(2)
        tabs[0].bring_to_front()
        expect(tabs[0].locator(".chart rect")).to_have_count(4)


def add_services(project: Project, url: str) -> None:
    urls = {"here": f"{url}/livez", "nowhere": f"{url}/no-such-page/"}
    script = "\n".join(f"Service.objects.create(name={name!r}, url={url!r})" for name, url in urls.items())
    project.manage("shell", "--command", f"from status.models import Service\n{script}")


def test_notifications(run_project: RunProject, open_page: OpenPage) -> None:
    """All pages of a user follow, in each browser, and none of another user's."""
    with run_project(starter="notifications") as (project, server):
        project.manage("shell", "--command", CREATE_USERS)
        options = {"expected": "Autofocus processing was blocked"}
        with (
            open_page(server.url, path="/accounts/login/", **options) as phone,
            open_page(server.url, path="/accounts/login/", **options) as desktop,
            open_page(server.url, path="/accounts/login/", **options) as other,
        ):
            for page, name in ((phone, "ada"), (desktop, "ada"), (other, "grace")):
                fill_in_password(page, name)
                expect(page).to_have_title("Notifications · wiki")
                expect(page.locator("#unread")).to_be_hidden()
            tab = desktop.context.new_page()
            tab.goto("/notifications/")
            expect(tab.get_by_text("You have no notifications yet.")).to_be_visible()
            phone.get_by_label("Text").fill("hello <b>Ada</b>")
            phone.get_by_role("button", name="Notify me").click()
            for page in (phone, desktop, tab):
                expect(page.get_by_role("link", name="Notifications 1 unread")).to_be_visible()
                expect(page).to_have_title(re.compile(r"^\(1\) "))
            expect(tab.get_by_role("listitem")).to_contain_text("hello <b>Ada</b>")
            expect(tab.get_by_role("status")).to_have_text("hello <b>Ada</b>")
            project.manage("shell", "--command", NOTIFY_FROM_ANOTHER_PROCESS)
            expect(tab.locator("#unread")).to_have_text(re.compile("^3 "))
            check_accessibility(tab)
            tab.get_by_role("button", name="Mark as read: paid").press("Enter")
            for page in (phone, desktop, tab):
                expect(page.locator("#unread")).to_have_text(re.compile("^2 "))
            tab.get_by_role("button", name="sent", exact=True).click()
            expect(tab.get_by_role("heading", name="Your account")).to_be_visible()
            check_accessibility(tab)
            tab.goto("/notifications/")
            phone.goto("/notifications/")
            phone.get_by_role("button", name="Mark as read: hello").focus()
            project.manage("shell", "--command", NOTIFY_FROM_ANOTHER_PROCESS)
            expect(phone.get_by_role("listitem")).to_have_count(5)
            expect(phone.get_by_role("button", name="Mark as read: hello")).to_be_focused()
            phone.get_by_role("button", name="Mark all as read").click()
            for page in (phone, desktop, tab):
                expect(page.locator("#unread")).to_be_hidden()
                expect(page).to_have_title(re.compile("^[YN]"))
            expect(tab.locator(".unread")).to_have_count(0)
            expect(other).to_have_title("Notifications · wiki")
            desktop.get_by_role("button", name="Sign out").click()
            expect(desktop.get_by_text("Notifications appear on open pages")).to_be_visible()
            expect(tab.locator("#bell")).to_be_hidden(timeout=20_000)


def test_notifications_outside_of_pages(make_project: MakeProject, window: BrowserContext) -> None:
    """A hidden tab has no stream, unless the browser shows notifications: then one has, and shows each of them once."""
    project = make_project(starter="notifications")
    project.manage("migrate")
    project.manage("shell", "--command", CREATE_USERS)
    with (project.path / "wiki" / "asgi.py").open("a") as file:
        file.write(COUNT_STREAMS)
    window.add_init_script(RECORD_NOTIFICATIONS)
    with project.run_server() as server:

        def wait_for_open_streams(count: int) -> None:
            def is_reached() -> bool:
                return server.output.count("stream opened") - server.output.count("stream closed") == count

            server.wait_until(is_reached, seconds=20)

        def notify(*expected: tuple[Page, list[str]]) -> None:
            project.manage("shell", "--command", NOTIFY_FROM_ANOTHER_PROCESS)
            for page, texts in expected:
                page.wait_for_function("count => shown.length >= count", arg=len(texts), polling=100)
                assert page.evaluate("shown") == texts

        first = window.new_page()
        first.goto(f"{server.url}/accounts/login/?next=/notifications/")
        fill_in_password(first, "ada")
        expect(first.get_by_role("button", name="Allow browser notifications")).to_be_visible()
        wait_for_open_streams(1)
        second = window.new_page()
        second.goto(server.url)
        wait_for_open_streams(1)
        elsewhere = window.new_page()
        elsewhere.goto(f"{server.url}/admin/login/")
        elsewhere.bring_to_front()
        wait_for_open_streams(0)
        notify((first, []), (second, []))

        window.grant_permissions(["notifications"], origin=server.url)
        for page, count in ((first, 1), (second, 2), (elsewhere, 1)):
            page.bring_to_front()
            wait_for_open_streams(count)
            if page != elsewhere:
                expect(page.locator("#unread")).to_have_text(re.compile("^2 "))
        notify((first, ["paid", "sent"]), (second, []))
        first.close()
        wait_for_open_streams(1)
        notify((second, ["paid", "sent"]))
        elsewhere.goto(server.url)
        wait_for_open_streams(2)
        notify((elsewhere, []))
        for page in (elsewhere, second):
            expect(page.locator("#unread")).to_have_text(re.compile("^8 "))
        assert second.evaluate("shown") == ["paid", "sent"]


RECORD_NOTIFICATIONS = """window.shown = [];
window.Notification = class extends Notification {
  constructor(text) {
    super(text);
    shown.push(text);
  }
};"""
CREATE_USERS = "\n".join(f"User.objects.create_user({name!r}, '', 'analytical-engine')" for name in ("ada", "grace"))
NOTIFY_FROM_ANOTHER_PROCESS = """
from notifications.notify import notify_sync
ada = User.objects.get(username="ada")
notify_sync(ada, "paid")
notify_sync(ada, "sent", "/accounts/")
"""


def test_pages_of_every_project(run_project: RunProject, open_page: OpenPage) -> None:
    """Sign-in, password and admin pages, none of which may need what the policy forbids."""
    with run_project() as (project, server):
        project.manage("shell", "--command", "User.objects.create_superuser('ada', '', 'analytical-engine')")
        with open_page(server.url) as page:
            page.get_by_role("link", name="Sign in").click()
            for password in ("wrong", "analytical-engine"):
                expect(page.get_by_label("Username")).to_be_focused()  # or Chromium says that it could not focus it
                page.get_by_label("Username").fill("ada")
                page.get_by_label("Password").fill(password)
                page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("button", name="Sign out")).to_be_visible()
            page.get_by_role("link", name="ada").click()
            check_accessibility(page)
            page.get_by_role("link", name="Change password").click()
            expect(page.get_by_role("heading", name="Password change")).to_be_visible()
            check_accessibility(page)
            page.goto("/admin/accounts/user/")
            page.get_by_role("link", name="ada").first.click()
            page.get_by_label("First name").fill("Ada")
            page.get_by_role("button", name="Save", exact=True).click()
            expect(page.get_by_text("was changed successfully")).to_be_visible()
            page.goto("/")
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_role("link", name="Sign in")).to_be_visible()
            for path in ("register", "login", "password_reset", "password_reset/done", "reset/x/x", "reset/done"):
                page.goto(f"/accounts/{path}/")
                check_accessibility(page)


def test_sign_up_and_error_pages(make_production_project: MakeProject, chromium: Browser) -> None:
    """In production, under its policy: a visitor signs up on the way to a page, and meets errors that look like the site."""
    project = make_production_project(starter="wiki")
    with visit_in_production(project, chromium) as (page, console):
        page.goto("/accounts/password_change/")
        page.get_by_role("main").get_by_role("link", name="Sign up").click()
        check_accessibility(page)
        page.get_by_label("Username").fill("grace")
        page.get_by_label("Password:", exact=True).fill("nanoseconds")
        page.get_by_label("Password confirmation").fill("nanoseconds")
        page.get_by_role("button", name="Sign up").click()
        expect(page.get_by_role("heading", name="Password change")).to_be_visible()
        page.get_by_role("link", name="grace").click()
        expect(page.get_by_role("heading", name="Your account")).to_be_visible()
        check_accessibility(page)
        assert console == []

        forged = "() => { document.forms[0].querySelector('[name=csrfmiddlewaretoken]').value = 'forged'; }"
        page.evaluate(forged)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="The form was not accepted")).to_be_visible()
        check_accessibility(page)
        expect(page.get_by_role("link", name="grace")).to_be_visible()
        page.goto("/nothing/")
        expect(page.get_by_role("heading", name="Page not found")).to_be_visible()
        check_accessibility(page)
        (project.path / "encyclopedia" / "templates" / "encyclopedia" / "index.html").unlink()
        page.get_by_role("link", name="Go to the home page").click()
        expect(page.get_by_role("heading", name="Server error")).to_be_visible()
        check_accessibility(page)
        expect(page.locator("h1")).to_have_css("letter-spacing", re.compile("^-"))  # of the style sheet
        assert [text for text in console if not text.startswith("Failed to load resource: the server resp")] == []


PAGES = {
    "blank": ["/"],
    "wiki": ["/", "/search/?q=CSS", "/new/", "/random/", "/wiki/CSS"],
    "chat": ["/", "/chat/empty/"],
    "live": ["/"],
    "api": ["/", "/api/docs"],
    "notifications": ["/", "/accounts/login/?next=/notifications/"],
    "game": ["/"],
    "assistant": ["/"],
}


def test_api(run_project: RunProject, open_page: OpenPage) -> None:
    """Someone creates a token, tries the API on its documentation page with their session, and revokes the token."""
    with run_project(starter="api") as (project, server):
        project.manage(
            "shell", "--command", "from accounts.models import User; User.objects.create_user('ada', password='x')"
        )
        with open_page(server.url, path="/tokens/", color_scheme="dark") as page:
            page.get_by_label("Username").fill("ada")
            page.get_by_label("Password").fill("x")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_label("Name").fill("laptop")
            page.get_by_role("button", name="Create a token").click()
            secret = page.locator("#secret").inner_text()
            assert httpx.get(f"{server.url}/api/notes", headers={"Authorization": f"Bearer {secret}"}).is_success
            check_accessibility(page)
            page.goto("/api/docs")
            expect(page.locator("html")).to_have_class("dark-mode")
            operation = page.locator(".opblock-post")
            operation.get_by_text("Create Note").click()
            operation.get_by_role("button", name="Try it out").click()
            operation.get_by_role("button", name="Execute").click()
            expect(operation.locator(".live-responses-table .response-col_status")).to_have_text(["Code", "201"])
            page.emulate_media(color_scheme="light")
            expect(page.locator("html")).not_to_have_class("dark-mode")
            page.goto("/tokens/")
            page.get_by_role("button", name="Revoke laptop").click()
            expect(page.get_by_text("The token was revoked.")).to_be_visible()


@pytest.mark.parametrize("starter", PAGES)
def test_each_starter(starter: str, run_project: RunProject, open_page: OpenPage) -> None:
    """Its pages without JavaScript, on a narrow screen, and by axe-core's rules."""
    with run_project(starter=starter) as (project, server):
        with open_page(server.url, java_script_enabled=False) as page:
            expect(page.get_by_role("heading", level=1)).to_be_visible()
        with open_page(server.url, viewport={"width": 320, "height": 640}) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= 320
            page.keyboard.press("Tab")
            expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
            for path in PAGES[starter]:
                page.goto(path)
                # An entry is plain text until its Markdown is turned into HTML.
                check_accessibility(page, *["page-has-heading-one"] * path.startswith("/wiki/"))
            if starter == "blank":
                check_buttons(page)
        if starter == "chat":
            check_times(project, server.url, open_page)


def check_buttons(page: Page) -> None:
    """As in courses: an <input> that is a button looks like a <button>."""
    page.set_content(page.content().replace("</main>", f"{BUTTONS}</main>"))
    read_style = (
        "each => ['backgroundColor', 'color', 'fontWeight', 'height'].map(name => getComputedStyle(each)[name])"
    )
    button, *inputs = [each.evaluate(read_style) for each in page.locator("#buttons > *").all()]
    assert inputs == [button] * 3


BUTTONS = """<form id="buttons"><button>Vote</button><input type="submit" value="Vote"><input type="reset" value="Vote">
<input type="button" value="Vote"></form>"""


def check_times(project: Project, url: str, open_page: OpenPage) -> None:
    """Those of messages: with the date unless it is today, and with the zone: UTC without JavaScript, else the reader's."""
    create = """from chat.models import Message, Room
Room.store_message("old", "ada", "hello")
Message.objects.update(sent="2020-02-03T04:05:06Z")"""
    project.manage("shell", "--command", create)
    with open_page(url, path="/chat/old/", java_script_enabled=False) as page:
        expect(page.locator("time")).to_have_text("2020-02-03 04:05 UTC")
    options = {"timezone_id": "America/New_York", "locale": "en-US"}
    with open_page(url, path="/chat/old/", **options) as page:
        expect(page.locator("time")).to_have_text(re.compile(r"^Feb 2, 2020, 11:05\sPM$"))
        expect(page.locator("time")).to_have_attribute(
            "title", re.compile(r"Sunday, February 2, 2020.+11:05:06\sPM EST")
        )
        send_message(page, "now")
        expect(page.locator("time").last).to_have_text(re.compile(r"^\d+:\d\d\s[AP]M$"))


BOOTSTRAP = {"css": ("text/css", ".btn { color: rgb(1, 2, 3); }"), "js": ("text/javascript", "window.bootstrap = {};")}
CONSOLE_PATTERNS = {  # the console's messages for the student's page
    "stylesheet": r"stylesheet 'https://cdn\.jsdelivr\.net/\S+\.css'",
    "script": r"script 'https://cdn\.jsdelivr\.net/\S+\.js'",
    "inline style": "(?i)inline style",
}


VIOLATIONS = """<!doctype html><title>Violations</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="https://cdn.example/style.css"><script src="https://cdn.example/script.js"></script>
<style>@font-face { font-family: elsewhere; src: url(https://cdn.example/font.woff2); }</style>
<p style="font-family: elsewhere" onclick="go()">Text</p><img src="https://cdn.example/image.png">
<iframe name="other" src="https://cdn.example/frame"></iframe>
<form action="https://cdn.example/form" target="other"><button>Send</button></form>
<script>try { eval("1"); } finally { fetch("https://cdn.example/data").catch(String); }</script>
"""


def test_console_messages(chromium: Browser) -> None:
    """Each violation in the table of docs/reference/settings.md, in the words that stand there; and that the sources cure it."""
    text = page_text("settings.md")
    rows = re.findall(r"^\| .+? \| ([A-Z][\w ]+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 11
    console = read_console(chromium, CONTENT_SECURITY_POLICY)
    assert [words for words, _ in rows if not any(said.startswith(words) for said in console)] == []
    assert [said for said in console if not said.startswith(tuple(words for words, _ in rows))] == []
    directives = re.findall("add (?:its|the) source to `([a-z-]+)`", text)
    assert len(directives) == 7
    sources = "".join(f"; {name} 'self' 'unsafe-inline' data: https://cdn.example" for name in directives)
    policy = re.sub(r"; (?:form-action|img-src) [^;]+", "", CONTENT_SECURITY_POLICY) + sources
    assert {said.split(" violates ")[0] for said in read_console(chromium, policy)} == {
        "Evaluating a string as JavaScript"
    }


def read_console(chromium: Browser, policy: str) -> list[str]:
    """Return the console's messages for a page with all those violations, under this policy, report-only."""

    def respond(route: Route) -> None:
        headers = {"content-type": "text/html", "access-control-allow-origin": "*"}
        document = route.request.url == "https://site.example/"
        if document:
            headers["content-security-policy-report-only"] = policy
        route.fulfill(headers=headers, body=VIOLATIONS if document else "")

    context = chromium.new_context()
    context.route("**/*", respond)
    page = context.new_page()
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    with page.expect_response("https://cdn.example/data"):
        page.goto("https://site.example/")
    with page.expect_response("https://cdn.example/form?"):
        page.get_by_role("button", name="Send").click()
    context.close()
    return [said for said in console if "violates" in said]


@contextmanager
def visit(chromium: Browser, url: str, scheme: str = "http") -> Iterator[tuple[Page, list[str]]]:
    """Open a page; yields it with its console's messages. Replaces Bootstrap's CDN, and sets X-Forwarded-Proto to `scheme`."""

    def respond(route: Route) -> None:
        if route.request.url.startswith(url):
            route.continue_(headers=route.request.headers | {"x-forwarded-proto": scheme})
        else:
            content_type, body = BOOTSTRAP[route.request.url.rpartition(".")[2]]
            route.fulfill(content_type=content_type, body=body)

    context = chromium.new_context(base_url=url)
    context.set_default_timeout(20_000)
    context.route("**/*", respond)
    page = context.new_page()
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    yield page, console
    context.close()


def install_app(project: Project, app: str) -> None:
    """Install the student's app under this name, with the lines of docs/how-to/course-projects.md."""
    student = ROOT / "tests" / "student" / "network"
    shutil.rmtree(project.path / "pages")
    for file in student.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            target = project.path / app / str(file.relative_to(student)).replace("network", app)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.read_text().replace("network", app))
    section = first_match(rf"^## [\w ]+\n\n([^#]+`\"{app}\",`[^#]+)", COURSE_PROJECTS)
    lines = re.findall(r"^\| `(\w+\.py)` \| `(.+?)`", section, re.MULTILINE)
    replaced = ['"pages",', 'AUTH_USER_MODEL = "accounts.User"', 'path("", include("pages.urls")),']
    assert len(lines) == len(replaced)
    for (file, new), old in zip(lines, replaced, strict=True):
        edit(project.path / project.slug / file, old, new)
    for command in re.findall(r"`uv run manage\.py (.+?)`", section):
        project.manage(*command.split())


COURSE_PROJECTS = page_text("course-projects.md")


@contextmanager
def runserver(project: Project) -> Iterator[Server]:
    port = free_port()
    with project.run_process([str(project.python), "manage.py", "runserver", "--noreload", str(port)], port) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "app", "django_version"),
    [
        *also_in_test_all(("commerce", "auctions", "5.2")),
        ("project3", "mail", "6.1"),
        *also_in_test_all(("project4", "network", "5.2")),
    ],
    ids=["commerce", "mail", "network"],
)
def test_course_project(name: str, app: str, django_version: str, make_project: MakeProject, chromium: Browser) -> None:
    """A student's app as in docs/how-to/course-projects.md: in development, blocked in production, and fixed."""
    assert f"`project_name={name}`" in COURSE_PROJECTS
    project = make_project(project_name=name, django_version=django_version)
    install_app(project, app)
    for user, run in (("ada", project.run_dev_server), ("grace", lambda: runserver(project))):
        with run() as server, visit(chromium, server.url) as (page, console):
            use_course_project(page, user)
            expect(page.get_by_role("button", name="Post")).to_have_css("color", "rgb(1, 2, 3)")
            check_console(console, reported=True)
    project.run(str(project.python), "-m", "pytest", "-q", "-p", "no:cacheprovider")

    project.in_production()
    project.manage("collectstatic", "--no-input")
    with visit_in_production(project, chromium) as (page, console):
        use_course_project(page, "alan")
        expect(page.get_by_role("button", name="Post")).not_to_have_css("color", "rgb(1, 2, 3)")
        expect(page.get_by_role("heading")).not_to_have_css("letter-spacing", "3px")
        check_console(console, reported=False)

    [bootstrap] = [block for block in code_blocks("settings.md", "python") if "bootstrap@" in block]
    assert '"style-src": ["\'self\'", ' in bootstrap
    allowed = bootstrap.replace('"style-src": ["\'self\'", ', '"style-src": ["\'self\'", "\'unsafe-inline\'", ')
    default = """    "default-src": ["'self'"],\n"""
    edit(project.path / project.slug / "settings.py", default, default + allowed)
    with visit_in_production(project, chromium) as (page, console):
        use_course_project(page, "edsger")
        expect(page.get_by_role("button", name="Post")).to_have_css("color", "rgb(1, 2, 3)")
        expect(page.get_by_role("heading")).to_have_css("letter-spacing", "3px")
        assert page.evaluate("Boolean(window.bootstrap)")
        assert console == []


@contextmanager
def visit_in_production(project: Project, chromium: Browser) -> Iterator[tuple[Page, list[str]]]:
    port = free_port()
    # The browser sends what it sees, and no proxy makes it the site's own.
    site = {"DJANGO_ALLOWED_HOSTS": "127.0.0.1", "DJANGO_CSRF_TRUSTED_ORIGINS": f"http://127.0.0.1:{port}"}
    with project.run_server(port=port, **site) as server, visit(chromium, server.url, "https") as (page, console):
        yield page, console


def use_course_project(page: Page, name: str) -> None:
    """Register, post and like with `fetch`, and save a file in Markdown."""
    page.goto("/register")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("analytical-engine")
    page.get_by_role("button", name="Register").click()
    expect(page.locator("nav strong")).to_have_text(name)
    page.get_by_role("link", name="About").click()
    page.get_by_label("Content").fill(f"By **{name}**")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("article strong")).to_have_text(name)
    page.get_by_role("link", name="Log out").click()
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill("analytical-engine")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")  # and until the scripts have run
    page.get_by_label("Post").fill(f"hello from {name}")
    page.get_by_role("button", name="Post").click()
    expect(page.locator("#posts li").first).to_have_text(f"{name}: hello from {name}")
    page.reload()
    like = page.locator("#posts button").first
    expect(like).to_have_text("0")
    like.click()
    expect(like).to_have_text("1")


def test_final_project(make_project: MakeProject, chromium: Browser) -> None:
    """An app with its own user, a WebSocket, an API and an event stream, made by the lines of docs/how-to/course-projects.md."""
    assert "`project_name=capstone channels=true`" in COURSE_PROJECTS
    project = make_project(project_name="capstone", channels=True)
    install_app(project, "forum")
    section = COURSE_PROJECTS.partition("\n## A final project\n")[2].partition("\n## ")[0]
    add_lines_of_final_project(project, section)
    project.run(sys.executable, "-m", "ruff", "check", "--no-cache", project.slug)
    with project.run_dev_server() as server, visit(chromium, server.url) as (page, _):
        use_final_project(page, "ada")

    project.in_production()
    project.manage("collectstatic", "--no-input")
    with visit_in_production(project, chromium) as (page, _):
        use_final_project(page, "alan")

    beside = code_blocks("other-asgi.md", "python")[1]
    for new, old in re.findall(r"`([\w.]+)` for `([\w.]+)`", section):
        assert old in beside
        beside = beside.replace(old, new)
    asgi = project.path / project.slug / "asgi.py"
    asgi.write_text(asgi.read_text() + beside)
    with project.run_server() as server, server.client() as client:
        assert client.get("/api/users").json() == {"users": 2}
        assert "alan: hello from alan" in client.get("/").text


def add_lines_of_final_project(project: Project, section: str) -> None:
    """Add what the section's second table names, where it says."""
    rows = re.findall(r"^\| [\w ]*\| `([\w/]+\.py)` \| (.+) \|$", section, re.MULTILINE)
    lines = [(file, re.findall("`(.+?)`", cell)) for file, cell in rows]
    files = ["consumers.py", "routing.py", "routing.py", *["views.py", "views.py", "urls.py"] * 2]
    assert [Path(file).name for file, _ in lines] == files
    consumer, imported, path, api_imports, api, api_path, stream_imports, stream, stream_path = (at for _, at in lines)

    echo = code_blocks("websockets.md", "python")[0].partition("\n\n\n")[0]
    last = first_match("its last line `(.+?)`", section)
    echo, count = re.subn(r"\S.*\Z", last, echo)
    assert count == 1
    (project.path / "forum" / "consumers.py").write_text(f"{consumer[0]}\n\n\n{echo}\n")
    routing = project.path / project.slug / "routing.py"
    edit(routing, imported[1], f"{imported[0]}\n\n{imported[1]}")
    edit(routing, path[1].rstrip(","), f"{path[0]}\n    {path[1].rstrip(',')}")

    [added] = [block for block in code_blocks("course-projects.md", "python") if block in section]
    assert all(f"async def {name}(" in added for name in (api[0], stream[0]))
    events = re.search(rf"async def {stream[1]}\(.+", code_blocks("streams.md", "python")[0], re.DOTALL)
    assert events
    views = project.path / "forum" / "views.py"
    top = "\n".join(api_imports + stream_imports)
    often = events[0].replace("sleep(5)", "sleep(0.1)")
    views.write_text(f"{top}\n{views.read_text()}\n\n{added}\n\n{often}")
    paths = "urlpatterns = [\n"
    edit(project.path / "forum" / "urls.py", paths, f"{paths}    {api_path[0]}\n    {stream_path[0]}\n")


def use_final_project(page: Page, name: str) -> None:
    """Use each of its parts, first signed in and then signed out."""
    use_course_project(page, name)
    assert page.evaluate(SEND_MESSAGE, "hello") == {"author": name, "content": "hello"}
    page.evaluate(SHOW_EVENTS)
    expect(page).to_have_title(re.compile(f"hello from {name}"))
    page.get_by_label("Post").fill(f"news from {name}")
    page.get_by_role("button", name="Post").click()
    expect(page).to_have_title(re.compile(f"news from {name}"))
    status, answer = page.evaluate(FETCH_POSTS)
    assert status == 200
    assert answer["posts"][0] == {"author__username": name, "text": f"news from {name}"}

    page.get_by_role("link", name="Log out").click()
    expect(page.get_by_role("link", name="Log in")).to_be_visible()
    assert page.evaluate(SEND_MESSAGE, "hello") == {"author": "", "content": "hello"}
    page.evaluate(SHOW_EVENTS)
    expect(page).to_have_title(re.compile(f"news from {name}"))
    assert page.evaluate(FETCH_POSTS) == [401, {"error": "Log in first."}]


SEND_MESSAGE = """message => new Promise((resolve, reject) => {
  const socket = new WebSocket("/ws/echo/");
  socket.onopen = () => socket.send(JSON.stringify(message));
  socket.onmessage = event => resolve(JSON.parse(event.data));
  socket.onclose = reject;
})"""
[LISTEN_TO_EVENTS] = code_blocks("streams.md", "js")
SHOW_EVENTS = f"() => {{ {LISTEN_TO_EVENTS.replace('console.log(', 'document.title = JSON.stringify(')} }}"
FETCH_POSTS = """() => fetch("/api/posts").then(async response => [response.status, await response.json()])"""


def check_console(console: list[str], reported: bool) -> None:
    """The console has each violation, either reported only or blocked, and nothing else."""
    for kind, pattern in CONSOLE_PATTERNS.items():
        assert any(re.search(pattern, text) for text in console), f"{kind}: {console}"
    known = "|".join(CONSOLE_PATTERNS.values()).replace("(?i)", "")
    assert [text for text in console if not re.search(known, text, re.IGNORECASE)] == []
    assert {bool(re.search("report.only", text, re.IGNORECASE)) for text in console} == {reported}
