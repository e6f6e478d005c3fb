"""A backend that replaces `get_user` and not `aget_user`, so that sync and async views see different users."""

from typing import Any

from accounts.backends import LimitedModelBackend


class SyncUserBackend(LimitedModelBackend):
    def get_user(self, user_id: Any) -> Any:
        user = super().get_user(user_id)
        user.username += " in a sync view"
        return user
