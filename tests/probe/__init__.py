"""An app that the tests put into a generated project, to test the ASGI core from outside."""
