"""An app that the tests put into a generated project, to see from outside what the ASGI core does."""
