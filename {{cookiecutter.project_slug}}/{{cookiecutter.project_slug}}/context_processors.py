from django.conf import settings
from django.urls import get_script_prefix


def site(request):
    """The site's name and the path of its first page, for every template."""
    return {"project_name": settings.SITE_NAME, "home_url": get_script_prefix()}
