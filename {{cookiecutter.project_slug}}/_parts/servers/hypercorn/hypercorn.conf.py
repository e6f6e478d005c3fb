"""What hypercorn's command line has no option for; the command is in the Procfile."""

import logging

websocket_max_message_size = 1_048_576
websocket_ping_interval = 20  # seconds; serving/hardening.py closes connections that do not answer
# Without handlers of its own: the project's settings say how logs look.
errorlog = logging.getLogger("hypercorn.error")
