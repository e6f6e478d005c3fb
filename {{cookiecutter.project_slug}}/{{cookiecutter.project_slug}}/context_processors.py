from django.conf import settings


def site(request):
    """The site's name, for every template."""
    return {"project_name": settings.SITE_NAME}
