from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from . import views

admin.site.site_title = admin.site.site_header = settings.SITE_NAME

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("accounts.urls")),
    path("favicon.ico", views.favicon),
    path("robots.txt", views.robots),
    path("", include("pages.urls")),
]
