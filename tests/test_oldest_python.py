"""What could differ on the oldest Python that each Django supports: startup, shutdown, the core, the projects' own tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import test_stops
from tests.template import CHOICES, MakeProbeProject, MakeProject, also_in_test_all, on_servers
from tests.test_core import (  # noqa: F401 (pytest collects them from here, too)
    test_async_code_in_a_sync_view_is_cancelled_on_disconnect,
    test_context_of_a_sync_view,
    test_no_state_is_left_for_the_next_request,
    test_threads_are_reused_after_disconnects,
    test_threads_are_started_once,
)
from tests.test_projects import check_project


@pytest.fixture
def python() -> str:
    return "oldest"


@pytest.fixture(params=["5.2", *also_in_test_all("6.1")])
def django_version(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    return version


@pytest.mark.parametrize(
    ("starter", "django_version"),
    [
        *(("chat", "5.2"), ("live", "6.1")),
        *also_in_test_all(
            *(("blank", "5.2"), ("wiki", "5.2"), ("live", "5.2")), *(("blank", "6.1"), ("wiki", "6.1"), ("chat", "6.1"))
        ),
    ],
)
def test_own_tests(
    starter: str, django_version: str, make_project: MakeProject, request: pytest.FixtureRequest
) -> None:
    index = CHOICES["starter"].index(starter) + CHOICES["django_version"].index(django_version)
    check_project(make_project(starter=starter, database=CHOICES["database"][index % 2], channels=True), request)


@on_servers("uvicorn", "hypercorn")
def test_stop(server: str, make_probe_project: MakeProbeProject, python: str) -> None:
    test_stops.test_stop(server, make_probe_project, python)


@pytest.mark.parametrize("server", ["hypercorn", *also_in_test_all("daphne")])
def test_stop_over_http2(
    server: str, make_probe_project: MakeProbeProject, certificate: Callable[[Path], None]
) -> None:
    test_stops.test_stop_over_http2(server, make_probe_project, certificate)
