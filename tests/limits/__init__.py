"""An app that the tests put beside the probe app: views that use up threads, memory and connections, or are unusual."""
