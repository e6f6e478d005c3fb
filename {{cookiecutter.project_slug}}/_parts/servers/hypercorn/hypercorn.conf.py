"""hypercorn settings without a command-line option; the command is in the Procfile."""

import logging
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from hypercorn import run

websocket_max_message_size = 1_048_576
websocket_ping_interval = 20  # seconds; serving/hardening.py closes a connection without a response
# This logger has no handlers of its own, since the project's settings configure the logs.
errorlog = logging.getLogger("hypercorn.error")


def keep_status(
    join_exited: Callable[[list[BaseProcess]], int],
) -> Callable[[list[BaseProcess]], int]:
    """Make hypercorn exit with the status of a process that failed.

    By itself, it may exit with 0: https://github.com/pgjones/hypercorn/pull/372
    """
    statuses: list[int] = []

    def join_and_keep(processes: list[BaseProcess]) -> int:
        statuses.append(join_exited(processes))
        return next(filter(None, statuses), 0)

    return join_and_keep


vars(run)["_join_exited"] = keep_status(run._join_exited)
del keep_status  # hypercorn treats all names in this file as options
