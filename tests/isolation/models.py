from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    """A tenant; django-tenants makes its schema when it is saved."""


class Domain(DomainMixin):
    """The host name of a tenant."""


class RoleNote(models.Model):
    """A row that PostgreSQL shows to the role that owns it alone."""

    owner = models.TextField()
