"""Attacks on generated projects in production mode, each from outside: docs/security.md says who may do what."""

# Row 1: h2c past a proxy.


# Row 2: the memory of a WebSocket message.


# Row 3: a service that drips.


# Row 4: the owner's files and the generation of a project over them.


# Row 5: the limits of sign-in.


# Row 6: who has an account.


# Row 7: WebSockets of users who signed out.


# Row 8: trusted hosts.


# Row 9: what a shared cache keeps, and the headers of static files.


# Row 10: sessions and names of guests.


# Row 11: the Origin of a WebSocket.


# Row 12: URLs of services.


# Row 13: the entries' files and names.


# Row 14: raw request targets.


# Row 15: what a container may do.


# Row 16: half-open connections.
