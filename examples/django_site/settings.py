"""The settings of the site: no more of Django than the view needs."""

import os

SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "127.0.0.1").split(",")
ROOT_URLCONF = "django_site.urls"
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]

WAREHOUSE_TOKEN = os.environ["WAREHOUSE_TOKEN"]
SMS_DATABASE = os.environ["SMS_DATABASE"]
