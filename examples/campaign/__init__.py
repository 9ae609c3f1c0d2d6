"""A campaign: one message to each customer of a list, in Python and with a journal."""
