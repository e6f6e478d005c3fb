from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """A custom user model from the start, since changing to one later is hard."""

    class Meta(AbstractUser.Meta):
        # AUTH_USER_MODEL can name another app's user model in place of this one.
        swappable = "AUTH_USER_MODEL"
