"""An app that the tests put into a generated project: four ways to keep the current tenant in a thread or connection."""
