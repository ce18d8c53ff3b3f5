"""Rules of CONTRIBUTING.md that a program can check: lengths, and how docstrings begin."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("acclimate", "benchmarks", "docs/build", "studies")
FILE_LINES, FUNCTION_LINES = 300, 60


def sources() -> Iterator[tuple[str, str]]:
    """(path, text) of each Python file of the project."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def long_functions(text: str) -> list[str]:
    """The functions and methods of more than 60 lines, with their docstrings."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


def docstrings_that_begin_with_of(text: str) -> list[int]:
    """Lines of the docstrings (module, class, function, attribute) that begin with "Of "."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.split()[:1] == ["Of"]
    ]


def test_no_file_is_too_long():
    lengths = {name: len(text.splitlines()) for name, text in sources()}
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_no_function_is_too_long():
    found = {name: long_functions(text) for name, text in sources()}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_no_docstring_begins_with_of():
    found = {name: docstrings_that_begin_with_of(text) for name, text in sources()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_is_too_long_is_found():
    lines = ["class A:", "    async def f(self):", '        """Do."""', *["        pass"] * 58]
    assert long_functions("\n".join(lines)) == []
    assert long_functions("\n".join([*lines, "        pass"])) == ["f"]


def test_every_kind_of_docstring_is_looked_at():
    text = '"""Of a."""\nclass A:\n    """Of b."""\n    c = 1\n    """Of c."""\n'
    text += '    def e(self):\n        """\n        Of e.\n        """\n        f = "Of f."\n'
    assert docstrings_that_begin_with_of(text) == [1, 3, 5, 7]
