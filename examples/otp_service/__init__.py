"""A service that proves that a phone number is its user's: one-time codes by SMS, over PostgreSQL."""
