from django.conf import settings
from django.contrib import admin
from django.urls import include, path

admin.site.site_title = admin.site.site_header = settings.SITE_NAME

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("accounts.urls")),
    path("", include("pages.urls")),
]
