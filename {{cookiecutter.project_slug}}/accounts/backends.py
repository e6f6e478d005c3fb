from asgiref.sync import sync_to_async
from axes.backends import AxesStandaloneBackend


class LimitedSignIn(AxesStandaloneBackend):
    """Asks django-axes whether somebody may try a password; here for `aauthenticate`, too."""

    async def aauthenticate(self, request, **credentials):
        return await sync_to_async(self.authenticate)(request, **credentials)
