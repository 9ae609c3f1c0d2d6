"""The public face as lines of text: one for each class, function, method, property and field that users may name.

`python tests/public_api.py > tests/api.txt` records it anew.
"""

import ast
import enum
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import oca_sms_async

PACKAGE: Final = oca_sms_async.__name__
# Operators belong to the public face too: `async with`, `len(…)`, `…[0]`.
_OPERATORS: Final = {"__aenter__", "__aexit__", "__getitem__", "__len__"}


class Member(NamedTuple):
    """A part of the public face; `doc` documents its use, and for a constructor it is the class's docstring."""

    name: str
    line: str
    value: Any
    doc: str | None
    parameters: dict[str, Any]  # the types of the parameters, or of the field

    @property
    def owner(self) -> str:
        """The name of its class or module."""
        return self.name.rpartition(".")[0]


def modules() -> list[str]:
    """Return the facade and every public module beside it."""
    found = pkgutil.iter_modules(oca_sms_async.__path__, f"{PACKAGE}.")
    return [PACKAGE, *sorted(module.name for module in found if not module.name.startswith(f"{PACKAGE}._"))]


def public_names(module: types.ModuleType) -> set[str]:
    """Return the public names of a module: all names of a package, and the defined names of a module of code."""
    if hasattr(module, "__path__"):
        found = {name for name in dir(module) if name[0] != "_"}  # a facade may import a name at its first use
        return {name for name in found if not inspect.ismodule(getattr(module, name))}
    names = set[str]()
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(module=str(origin)) if origin.startswith(
                (f"{PACKAGE}._postgres", f"{PACKAGE}._queue", f"{PACKAGE}_")
            ):
                names |= {alias.asname or alias.name for alias in node.names}  # a facade over private modules
    return {name for name in names if name[0] != "_"}


def members() -> Iterator[Member]:
    """Yield all members, module by module."""
    for name in modules():
        module = importlib.import_module(name)
        for exported in module.__all__:
            if exported[0] != "_":
                yield from _of_export(f"{name}.{exported}", getattr(module, exported))


def _of_export(name: str, value: Any) -> Iterator[Member]:
    if inspect.isclass(value):
        yield from _of_class(name, value)
    elif hasattr(value, "__pytest_wrapped__") or hasattr(value, "_fixture_function"):  # users do not call it
        yield Member(name, f"fixture {name}", value, value.__doc__, {})
    elif callable(value):
        yield _callable(name, value, value.__doc__)
    else:
        text = "str" if isinstance(value, str) and "\n" in value else spell(value)  # a text of many lines is no face
        yield Member(name, f"{name} = {text}", value, None, {})


def _of_class(name: str, cls: type) -> Iterator[Member]:
    """Yield the class and the members that it adds to its public bases."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield Member(name, f"{'frozen ' if _is_frozen(cls) else ''}class {name}({bases})", cls, cls.__doc__, {})
    if issubclass(cls, enum.Enum):
        yield from (Member(f"{name}.{it.name}", f"{name}.{it.name} = {it.value!r}", it, cls.__doc__, {}) for it in cls)
        return
    added = {attribute for base in _owned_bases(cls) for attribute in (*vars(base), *inspect.get_annotations(base))}
    if not getattr(cls, "_is_protocol", False) and ("__init__" in added or cls.__base__ is object):
        yield _callable(f"{name}.__init__", _constructor(cls), cls.__doc__)
    hints = get_type_hints(cls)
    for attribute in sorted(attribute for attribute in added if attribute[0] != "_" or attribute in _OPERATORS):
        if attribute in hints:
            line = f"{name}.{attribute}: {spell(hints[attribute])}"
            yield Member(f"{name}.{attribute}", line, None, cls.__doc__, {attribute: hints[attribute]})
        else:
            yield _of_attribute(f"{name}.{attribute}", inspect.getattr_static(cls, attribute))


def _owned_bases(cls: type) -> list[type]:
    """Return the class and those of its bases that are ours and not public."""
    public = [getattr(module, name) for module in map(importlib.import_module, modules()) for name in module.__all__]
    return [base for base in cls.__mro__ if base.__module__.startswith(PACKAGE) and (base is cls or base not in public)]


def _of_attribute(name: str, value: Any) -> Member:
    if isinstance(value, property):
        returned = get_type_hints(value.fget)["return"]
        return Member(name, f"{name} -> {spell(returned)}", value, value.__doc__, {})
    kind = {classmethod: "classmethod ", staticmethod: "staticmethod "}.get(type(value), "")
    return _callable(name, getattr(value, "__func__", value), value.__doc__, kind)


def _callable(name: str, function: Callable[..., Any], doc: str | None, kind: str = "") -> Member:
    hints = get_type_hints(function)
    signature = inspect.signature(function)
    parameters = {name: hints[name] for name in signature.parameters if name in hints}
    shown = [
        parameter.replace(
            annotation=_Written(spell(hints[parameter.name])) if parameter.name in hints else parameter.empty,
            default=_default(parameter.default),
        )
        for parameter in signature.parameters.values()
    ]
    called = "async " if inspect.iscoroutinefunction(function) else ""
    text = signature.replace(parameters=shown, return_annotation=_Written(spell(hints["return"])))
    return Member(name, f"{kind}{called}{name}{text}", function, doc, parameters)


def _constructor(cls: type) -> Callable[..., None]:
    def plain(self: object) -> None:
        """Take no arguments, as `object.__init__`, which has no signature that says so."""

    return plain if cls.__init__ is object.__init__ else cls.__init__  # type: ignore[misc] # a class's own


def _is_frozen(cls: type) -> bool:
    return "__attrs_attrs__" in vars(cls) and cls.__setattr__.__name__ == "_frozen_setattrs"


def _default(value: Any) -> Any:
    """Return a default whose repr is the same everywhere."""
    return _Written(f"{type(value).__name__}.{value.name}") if isinstance(value, enum.Enum) else value


class _Written(str):
    """A type or a default as text; `inspect` shows each by its repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def spell(kind: Any) -> str:
    """Return a type as users write it, the same on each Python: without modules, and with `|` for a union."""
    if kind in (None, type(None), ...):
        return "..." if kind is ... else "None"
    if isinstance(kind, list):  # the parameters of a Callable
        return f"[{', '.join(map(spell, kind))}]"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union or origin is types.UnionType:
        return " | ".join(map(spell, arguments))
    if origin is not None:
        return f"{spell(origin)}[{', '.join(map(repr if origin is Literal else spell, arguments))}]"
    return getattr(kind, "__name__", None) or str(kind).removeprefix("typing.")


if __name__ == "__main__":
    sys.stdout.write("".join(f"{member.line}\n" for member in members()))
