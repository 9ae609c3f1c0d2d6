"""The public face: what can be imported, and what importing it costs."""

import inspect
import subprocess
import sys
import types
from typing import get_type_hints

import pytest

import oca_sms_async


def test_the_exports_are_sorted_and_all_there_is() -> None:
    """`__all__` is sorted, each name of it can be imported, and no public name is missing from it."""
    exported = oca_sms_async.__all__
    assert list(exported) == sorted(exported)
    public = {
        name
        for name, value in vars(oca_sms_async).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(exported) - {"__version__"}


@pytest.mark.parametrize("name", [name for name in oca_sms_async.__all__ if name != "__version__"])
def test_every_export_is_documented_and_its_types_can_be_read(name: str) -> None:
    """A docstring on each export and on its public methods; its annotations resolve at run time."""
    export = getattr(oca_sms_async, name)
    if name == "Outcome":  # a union of three exports
        return
    assert export.__doc__
    if not inspect.isclass(export):
        assert get_type_hints(export)
        return
    get_type_hints(export)
    for method in (value for key, value in vars(export).items() if inspect.isfunction(value)):
        get_type_hints(method)
        assert method.__doc__ or method.__name__.startswith("_")


def modules_of(package: str) -> set[str]:
    """Return the modules that importing a package loads in a fresh process."""
    script = f"import sys, {package}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_core_imports_no_extra() -> None:
    """Beyond httpx, which takes what it finds, nothing is loaded that only an extra needs, nor the slow metadata."""
    unwanted = {"starlette", "uvicorn", "cyclopts", "rich", "aiohttp", "redis", "importlib.metadata"}
    loaded = modules_of("oca_sms_async") - modules_of("httpx")
    assert "tenacity" in loaded
    assert unwanted & loaded == set()
