"""What could differ on the oldest Python that each Django supports: startup, shutdown, the core, the projects' own tests."""

import pytest

from tests.template import CHOICES, MakeProject, also_in_test_all
from tests.test_core import (  # noqa: F401 (pytest collects them from here, too)
    test_async_code_in_a_sync_view_is_cancelled_on_disconnect,
    test_context_of_a_sync_view,
    test_no_state_is_left_for_the_next_request,
    test_threads_are_reused_after_disconnects,
    test_threads_are_started_once,
)
from tests.test_projects import check_project
from tests.test_stops import test_stop, test_stop_over_http2  # noqa: F401


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
        *(("blank", "5.2"), ("wiki", "6.1"), ("chat", "5.2"), ("live", "6.1")),
        *also_in_test_all(("blank", "6.1"), ("wiki", "5.2"), ("chat", "6.1"), ("live", "5.2")),
    ],
)
def test_own_tests(
    starter: str, django_version: str, make_project: MakeProject, request: pytest.FixtureRequest
) -> None:
    index = CHOICES["starter"].index(starter) + CHOICES["django_version"].index(django_version)
    check_project(make_project(starter=starter, database=CHOICES["database"][index % 2], channels=True), request)
