"""A Django site with an asynchronous view that sends an SMS."""
