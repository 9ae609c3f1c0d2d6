"""A Celery worker that sends SMS. A job that is delivered again sends nothing twice."""
