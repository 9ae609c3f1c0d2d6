"""A Django site whose asynchronous view sends an SMS."""
