"""CONTRIBUTING.md lists the layers of the contract in pyproject.toml."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_layers_are_those_of_the_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^## Layers\n[^`]+(?:`[^`]+`[^`]+)*^```\n(.*?)^```$", page, re.M | re.S)
    assert listed.splitlines() == contract["layers"]
