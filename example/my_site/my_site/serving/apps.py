from django.apps import AppConfig


class ServingConfig(AppConfig):
    name = __name__.rpartition(".")[0]

    def ready(self) -> None:
        from . import checks  # noqa: F401 (registers them)
