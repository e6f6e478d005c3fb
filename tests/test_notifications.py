"""The notifications starter on each server, over real sockets and from other processes."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.template import Answers, MakeProject, also_in_test_all, edit, first_match, on_each_server

PASSWORD = "analytical-engine"
SIGNED_OUT = ": keep-alive\n\nevent: signed-out\ndata: Sign in to receive notifications.\n\n"
CREATE_USERS = f"""
for name in ("grace", "joan"):
    User.objects.create_user(name, password="{PASSWORD}")
"""
NOTIFY = """
from notifications.notify import notify_sync
notify_sync(User.objects.get(username="ada"), "for ada", "/accounts/")
notify_sync(User.objects.get(username="grace"), "for grace")
"""
END_SESSIONS = """
grace, joan = User.objects.filter(username__in=["grace", "joan"]).order_by("username")
grace.is_active = False
joan.set_password("difference-engine")
for user in (grace, joan):
    user.save()
"""
CREATE_10_000_USERS = """
User.objects.bulk_create(User(username=f"user{number}") for number in range(10_000))
"""


def sign_in(client: httpx.Client, name: str) -> None:
    client.headers["Origin"] = "https://example.com"
    answer = post(client, "/accounts/login/", "/accounts/login/", username=name, password=PASSWORD)
    assert answer.status_code == 302


def post(client: httpx.Client, page: str, path: str, **form: str) -> httpx.Response:
    """Send a form with the token that this page has."""
    token = first_match(r'csrfmiddlewaretoken" value="(\w+)"', client.get(page).text)
    return client.post(path, data=form | {"csrfmiddlewaretoken": token})


def get_stream_url(client: httpx.Client) -> str:
    return first_match(r'data-events="(.+?)"', client.get("/").text)


def next_event(lines: Iterator[str]) -> Any:
    return next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))


@on_each_server("notifications")
def test_notifications(answers: Answers, make_production_project: MakeProject) -> None:
    """Each page of a user gets the user's notifications, and none after the end of the session."""
    project = make_production_project(**answers)
    edit(project.path / "notifications" / "events.py", "SESSION_CHECK_SECONDS = 10", "SESSION_CHECK_SECONDS = 1")
    project.manage("shell", "--command", CREATE_USERS)
    with project.run_server() as running, ExitStack() as stack:

        def open_page(name: str) -> tuple[httpx.Client, Iterator[str]]:
            client = stack.enter_context(running.client())
            sign_in(client, name)
            response = stack.enter_context(client.stream("GET", get_stream_url(client)))
            assert response.headers["content-type"] == "text/event-stream"
            lines = response.iter_lines()
            assert next_event(lines) == {"unread": 0, "new": []}
            return client, lines

        (ada, lines), (phone, lines_of_phone) = open_page("ada"), open_page("ada")
        (grace, lines_of_grace), (_, lines_of_joan) = open_page("grace"), open_page("joan")
        visitor = stack.enter_context(running.client())
        assert 'id="bell"' not in visitor.get("/").text
        url = get_stream_url(ada)
        assert url != get_stream_url(grace)
        for client in (visitor, grace):
            assert client.get(url).text == SIGNED_OUT

        project.manage("shell", "--command", NOTIFY)
        expected = {"unread": 1, "new": [{"text": "for ada", "url": "/accounts/"}]}
        assert [next_event(each) for each in (lines, lines_of_phone)] == [expected] * 2
        assert next_event(lines_of_grace) == {"unread": 1, "new": [{"text": "for grace", "url": ""}]}
        path = first_match(r'action="(/notifications/\d+/read/)"', ada.get("/notifications/").text)
        assert post(grace, "/notifications/", path).status_code == 404
        opened = post(phone, "/notifications/", path)
        assert (opened.status_code, opened.headers["location"]) == (302, "/accounts/")
        for each in (lines, lines_of_phone):
            assert next_event(each) == {"unread": 0, "new": []}

        project.manage("shell", "--command", END_SESSIONS)
        assert post(phone, "/", "/accounts/logout/").status_code == 302
        start = time.monotonic()
        for each in (lines_of_phone, lines_of_grace, lines_of_joan):
            assert [line for line in each if line.startswith("data")] == []
        assert time.monotonic() - start < 5
        for client in (phone, grace):
            assert client.get(url).text == SIGNED_OUT
        project.manage("shell", "--command", NOTIFY)
        assert next_event(lines)["unread"] == 1
        assert "Traceback" not in running.output


@pytest.mark.parametrize("database", ["postgresql", *also_in_test_all("sqlite")])
def test_announcement_to_10_000_users(database: str, make_production_project: MakeProject) -> None:
    project = make_production_project(starter="notifications", database=database)
    project.manage("shell", "--command", CREATE_10_000_USERS)
    with project.run_server() as running, running.client() as client, ExitStack() as stack:
        sign_in(client, "ada")
        responses = [client.stream("GET", get_stream_url(client)) for _ in range(20)]
        streams = [stack.enter_context(response).iter_lines() for response in responses]
        for lines in streams:
            next_event(lines)
        path = "/admin/notifications/announcement/add/"
        assert "is not a path on this site" in post(client, path, path, text="hello", url="https://example.com").text
        start = time.monotonic()
        assert post(client, path, path, text="hello", url="/accounts/").status_code == 302
        committed = time.monotonic()
        expected = {"unread": 1, "new": [{"text": "hello", "url": "/accounts/"}]}
        assert [next_event(lines) for lines in streams] == [expected] * len(streams)
        print(f"{committed - start:.2f} s, on all pages after {time.monotonic() - start:.2f} s")
        assert committed - start < 20
        assert ">10001<" in client.get("/admin/notifications/announcement/").text
    count = "from notifications.models import *; print(Notification.objects.filter(is_read=False).count())"
    assert project.manage("shell", "--command", count).stdout.split()[-1] == "10001"
