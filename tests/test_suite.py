"""The suite itself: no test can wait for ever."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
BOUNDS = {"timeout", "timeout_at"}  # of asyncio, as the context manager around a loop


def is_bounded(block: ast.AsyncWith) -> bool:
    """Tell whether a block has a time-out of asyncio around it."""
    calls = (item.context_expr for item in block.items)
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in BOUNDS
        for call in calls
    )


def polls(loop: ast.While) -> bool:
    """Tell whether a loop waits for a condition: it awaits `asyncio.sleep`, and it can end by itself."""
    nodes = [*ast.walk(loop)]
    ticks = isinstance(loop.test, ast.Constant) and not any(isinstance(node, ast.Break | ast.Return) for node in nodes)
    awaited = (node.value for node in nodes if isinstance(node, ast.Await))
    return not ticks and any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "sleep"
        for call in awaited
    )


def unbounded_loops(node: ast.AST) -> Iterator[int]:
    """Yield the line of each loop that waits for a condition without a time-out around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AsyncWith) and is_bounded(child):
            continue
        if isinstance(child, ast.While) and polls(child):
            yield child.lineno
        yield from unbounded_loops(child)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("while waiting: await asyncio.sleep(0)", [1]),
        ("async with client:\n    while waiting: await asyncio.sleep(0)", [2]),
        ("async with asyncio.timeout(1):\n    while waiting: await asyncio.sleep(0)", []),
        ("while True:\n    if done: break\n    await asyncio.sleep(0)", [1]),
        ("while True: await asyncio.sleep(tick())", []),
        ("while messages: await client.send(messages.pop())", []),
    ],
)
def test_unbounded_loops_are_found(source: str, lines: list[int]) -> None:
    """A loop that waits for a condition needs a time-out around it, and other loops do not."""
    assert [*unbounded_loops(ast.parse(source))] == lines


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TESTS).as_posix())
def test_no_loop_polls_without_a_bound(file: Path) -> None:
    """A condition that never comes true fails its test and does not hang it."""
    assert [*unbounded_loops(ast.parse(file.read_text(encoding="utf-8")))] == []


def test_a_test_that_hangs_ends_the_run(pytestconfig: pytest.Config) -> None:
    """Pytest prints the stacks of a test that takes too long, and exits."""
    assert 60 <= float(pytestconfig.getini("faulthandler_timeout")) <= 600
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True
