from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """The project's own user model from the start: to change to one later is hard."""
