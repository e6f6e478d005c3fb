"""ASGI types under the short names that the specification and the servers use."""

from asgiref.typing import ASGI3Application as ASGIApplication
from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from asgiref.typing import Scope

__all__ = ["ASGIApplication", "Receive", "Scope", "Send"]
