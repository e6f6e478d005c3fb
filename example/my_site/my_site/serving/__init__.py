"""What makes Django quick and safe on an ASGI server. It knows nothing of the other apps."""
