from typing import Any

from django.core.cache.backends.locmem import LocMemCache


class CountedCache(LocMemCache):
    """Counts how often any instance is closed."""

    closed = 0

    def close(self, **kwargs: Any) -> None:
        type(self).closed += 1
