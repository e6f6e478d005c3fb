"""An app that the tests put into a generated project: four ways of telling users apart by what a thread or a connection holds."""
