"""Let what runs come to its end before hypercorn stops; by itself, it cuts it off."""

import signal
from multiprocessing import parent_process


def be_patient():
    """Call it when the application is loaded.

    Hypercorn tells its worker processes by an event that they are to stop. SIGTERM, which they get too
    if it goes to all processes of a container or session, or when the first of them has ended, would
    end them at once.
    """
    if parent_process():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
