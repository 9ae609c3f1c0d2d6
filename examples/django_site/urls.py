"""The paths of the site."""

from django.urls import path

from django_site.views import tell_shipped

urlpatterns = [path("orders/<int:order>/shipped", tell_shipped)]
