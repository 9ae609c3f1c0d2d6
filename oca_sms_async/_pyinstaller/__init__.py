"""Hooks for PyInstaller, which finds them by an entry point: a bundled program has the sandbox's page, and all rooms
of the command.
"""

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folders with hooks."""
    return [str(Path(__file__).parent)]
