"""PyInstaller sees no import of the commands' rooms, because cyclopts imports them by their names; this adds them."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("oca_sms_async.cli")
