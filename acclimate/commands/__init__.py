"""The verbs of the command line, a file each: dataclasses whose fields are their flags."""

import ast
from importlib import import_module
from pathlib import Path

VERBS = (
    "quickstart",
    "train",
    "align",
    "wrap",
    "measure",
    "advise",
    "adapt",
    "serve",
    "corrupt",
    "bench",
    "report",
    "compare",
    "analyse",
    "info",
    "methods",
)
"""The verbs in the order of the help. Each is a class of that name in the module of that name."""


def verb_class(verb: str) -> type:
    """The class of a verb. It is imported when it is asked for: torch takes seconds to import."""
    return getattr(import_module(f"acclimate.commands.{verb}"), verb.capitalize())


def summary(verb: str) -> str:
    """The first sentence of a verb's docstring, read from its file without importing it."""
    tree = ast.parse(Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    text = ast.get_docstring(classes[verb.capitalize()]) or ""
    return " ".join(text.split("\n\n")[0].split())


def kept_help(verb: str) -> str | None:
    """The help of a verb whose parser takes seconds to build, kept as text; None for the others.

    Verbs with the settings of methods or of training import torch for their defaults.
    ``python docs/build/help_texts.py`` writes the texts, and a test compares them with the parser.
    """
    path = Path(__file__).parent / "help" / f"{verb}.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else None
