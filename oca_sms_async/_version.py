"""The version, in one place. Reading the installed metadata would cost 27 ms at import."""

__version__ = "1.0.0rc1"
