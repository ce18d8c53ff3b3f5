"""Fail if fewer symbols of the package have a known type than before.

    python scripts/public_types.py

A checker of someone's program sees only what is annotated. basedpyright counts it for all symbols
without a leading underscore; those that other packages leave unknown do not count.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.96
"""Share of symbols that must have a known type."""


def completeness() -> float:
    """The share of symbols of the package whose type is known."""
    programs = Path(sys.executable).parent
    command = [str(programs / "basedpyright"), "--verifytypes", "acclimate"]
    command += ["--ignoreexternal", "--outputjson"]
    found = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    found["PYTHONPATH"] = str(ROOT)  # a checker does not follow installations in editable mode
    # Elsewhere than in a checkout, whose own settings would be taken for the package's.
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=place, env=os.environ | found
        )
    return json.loads(done.stdout)["typeCompleteness"]["completenessScore"]


def main() -> None:
    """Print the share, and exit with 1 if it is too small."""
    share = completeness()
    print(f"{share:.1%} of the public symbols have a known type; {LEAST:.0%} must.")
    sys.exit(share < LEAST)


if __name__ == "__main__":
    main()
