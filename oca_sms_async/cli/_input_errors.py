"""The error of an input file that cannot be used."""


class InputError(Exception):
    """The file, or its template, cannot be used at all; the sentence says how to mend it."""
