from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """The project's own user model from the start: to change to one later is hard."""

    class Meta(AbstractUser.Meta):
        # Lets another app's user model, named in AUTH_USER_MODEL, take the place of this one.
        swappable = "AUTH_USER_MODEL"
