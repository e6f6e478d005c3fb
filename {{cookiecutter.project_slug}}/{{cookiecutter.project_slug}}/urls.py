from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

from .serving.uploads import serve_upload

admin.site.site_title = admin.site.site_header = settings.SITE_NAME

urlpatterns = [
    *static("media/", view=serve_upload),  # in debug mode alone
    path("admin/", admin.site.urls),
    path("accounts/", include("accounts.urls")),
    path("", include("{{ cookiecutter.__app }}.urls")),
]
