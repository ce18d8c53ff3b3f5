"""Write the help of the verbs with settings, which is kept as text, anew from their parsers.

    python docs/build/help_texts.py

Building these parsers imports torch, which takes seconds; the text is there at once.
"""

import os
from pathlib import Path

from acclimate import cli, commands

FOLDER = Path(commands.__file__).parent / "help"
VERBS = ("train", "align", "adapt")
WIDTH = "100"


def told(verb: str) -> str:
    """What the parser of a verb says to ``--help``."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        text = cli.help_of(verb)
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in VERBS:
        (FOLDER / f"{name}.txt").write_text(told(name), encoding="utf-8")
