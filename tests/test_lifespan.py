"""What lives as long as the server: entered at its start and left at its stop, on each server and without one."""

import re
import signal

import pytest

from tests.template import MakeProject, Project, code_blocks, edit, first_match, free_port, on_servers, page_text

VIEWS = """
from asgiref.sync import async_to_sync
from django.http import HttpResponse

WEATHER = "http://127.0.0.1:{port}/livez"

{view}

def sync_weather(request):
    return async_to_sync(weather)(request)


urlpatterns += [path("weather/", weather), path("sync-weather/", sync_weather)]
"""


def add_lifespan(project: Project, port: int) -> None:
    """Do what docs/how-to/lifespan.md says, in a project that then says what it does."""
    lifespan, middleware, view = code_blocks("lifespan.md", "python")
    package = project.path / "wiki"
    (package / "lifespan.py").write_text(lifespan)
    edit(package / "lifespan.py", "import httpx2\n", "import httpx2\nfrom accounts.models import User\n")
    start, end = "    async with httpx2", "        yield State(http_client)\n"
    edit(package / "lifespan.py", start, f'    print("entered", await User.objects.acount())\n{start}')
    edit(package / "lifespan.py", end, f'{end}    print("left", await User.objects.acount())\n')
    line = first_match("below `([^`]+)`:", page_text("lifespan.md"))
    edit(package / "asgi.py", line, f"{line}\n{middleware}")
    urls = package / "urls.py"
    urls.write_text(urls.read_text() + VIEWS.format(port=port, view=view))


@on_servers("uvicorn", "daphne")
def test_lifespan(server: str, make_production_project: MakeProject) -> None:
    """Each process enters once. A start that fails ends with the error and a status."""
    processes = 1 if server == "daphne" else 2
    project = make_production_project(server=server)
    port = free_port()
    add_lifespan(project, port)
    with project.run_server(port=port, WEB_CONCURRENCY=str(processes)) as running, running.client() as client:
        running.wait_until(lambda: running.output.count("entered 1\n") == processes)
        for path in ("/weather/", "/sync-weather/", "/weather/"):
            assert client.get(path).json()["status"] == "ok"
        assert "left" not in running.output
        running.stop()
        assert running.output.count("entered 1\n") == running.output.count("left 1\n") == processes
        assert "Traceback" not in running.output

    edit(
        project.path / "wiki" / "lifespan.py",
        "    async with",
        '    raise RuntimeError("cannot enter")\n    async with',
    )
    with pytest.raises(AssertionError, match=r"The server ended with [1-9]") as ended, project.run_server(port=port):
        pass
    starts = 2 if server == "granian" else 1  # granian tries again once
    assert str(ended.value).count("RuntimeError: cannot enter") == starts


def test_runserver(make_project: MakeProject) -> None:
    """It tells no application that it starts, so the first use enters. Ctrl-C shows no error."""
    project = make_project()
    project.manage("migrate")
    port = free_port()
    add_lifespan(project, port)
    command = [str(project.python), "manage.py", "runserver", "--noreload", str(port)]
    with project.run_process(command, port) as running, running.client(https=False) as client:
        for _ in range(2):
            assert client.get("/weather/").status_code == 200
        assert running.output.count("entered 0\n") == 1
        running.process.send_signal(signal.SIGINT)
        running.process.wait(10)
        assert not re.search("Traceback|Error|Task was destroyed", running.output), running.output


USE_WITHOUT_SERVER = r"""
import asyncio
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from asgiref.sync import async_to_sync
from wiki.serving.lifespan import LifespanState

number, request = 0, ContextVar("request", default="none")

@asynccontextmanager
async def lifespan():
    global number
    number += 1
    print("enter", number, request.get(), end=", ")
    async with asyncio.timeout(10):  # which has to be left in the task that entered it
        await asyncio.sleep(0.01)
        if number == 3:
            raise ValueError("enter failed")
        yield number
        await asyncio.sleep(0)
    print("leave", end=", ")

state = LifespanState(lifespan)

async def use():
    request.set("first")
    return await state.get()

async def use_concurrently():
    first = asyncio.create_task(use())
    await asyncio.sleep(0)
    others = asyncio.gather(use(), use())
    await asyncio.sleep(0)
    first.cancel()  # as of a client that leaves
    print(await others, await use(), end=", ")

async def fail_and_try_again():
    with suppress(ValueError):
        await use()
    print(await use(), end=", ")
    await state.leave()
    print(await use(), end=", ")

for function in (use, use_concurrently, fail_and_try_again):
    print(asyncio.run(function(), debug=True))
print(async_to_sync(use)())
print(len(state.tasks), len(state.states))

async def fail_later():
    await asyncio.sleep(0.01)
    raise RuntimeError("task failed")

@asynccontextmanager
async def lifespan_with_task():
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fail_later())
        yield "entered"
        task.cancel()

async def use_again():
    state = LifespanState(lifespan_with_task)
    print(await state.get(), end=", ")
    await asyncio.sleep(0.1)
    print(await state.get())

asyncio.run(use_again())
"""


def test_without_a_server(make_project: MakeProject) -> None:
    """Each event loop enters once, at the first use, and leaves at its end, or when a task that was started fails."""
    ran = make_project().manage("shell", "--no-imports", "--command", USE_WITHOUT_SERVER)
    assert ran.stdout.splitlines()[:6] == [
        "enter 1 none, leave, 1",
        "enter 2 none, [2, 2] 2, leave, None",
        "enter 3 none, enter 4 none, 4, leave, enter 5 none, 5, leave, None",
        "enter 6 none, leave, 6",
        "0 0",
        "entered, entered",
    ]
    assert ran.stdout.count("RuntimeError: task failed") == 1  # in the log
    assert ran.stderr == ""
