"""The ASGI core, which makes Django fast and safe on an ASGI server. It needs no other app."""
