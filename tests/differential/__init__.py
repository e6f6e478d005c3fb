"""An app that the tests put into a generated project, to ask the core and Django's own handler the same."""
