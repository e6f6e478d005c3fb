from django.db import models


class Note(models.Model):
    """A row in each tenant's own schema; the public schema has no such table."""

    owner = models.TextField()
