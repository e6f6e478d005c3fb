from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import include, path

from . import views
from .serving.uploads import serve_upload

admin.site.site_title = admin.site.site_header = settings.SITE_NAME

urlpatterns = [
    *static("media/", view=serve_upload),  # in debug mode only
    path("admin/", admin.site.urls),
    path("accounts/", include("accounts.urls")),
    path("favicon.ico", views.favicon),
    path("robots.txt", views.robots),
    path("", include("pages.urls")),
]
