"""The pages of docs/ and the README do what they say.

Snippets run as they stand. ``python tests/test_docs.py`` writes docs/reference-settings.md anew.
"""

import ast
import inspect
import itertools
import re
import shlex
import shutil
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from acclimate import cli
from acclimate.backbones import build
from acclimate.data import LabelledImages, load
from acclimate.evaluate import engines
from acclimate.evaluate.results import COLUMNS
from acclimate.methods import METHODS, RECIPES, AdapterSettings
from acclimate.objectives import OBJECTIVES
from acclimate.quickstart import STUDY
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, SourceSettings, with_epochs
from acclimate.source.train import train

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference-settings.md"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("README.md")]
BLOCK = re.compile(
    r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = ("bash", "console", "sh", "shell")
PROSE = ("text", "csv", "")
CANNOT_RUN = re.compile(
    r"make\b|pip\b|python3? -m (pip|venv)\b|git clone\b|cd\b|acclimate quickstart\b"
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
# Counts the costs of all methods on a network of some size; test_cli.py does on a small one.
running_pages = pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name == "methods.md" else [])
        for page in PAGES
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(reason not to run it, language, text) of each fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(language: str, text: str) -> list[str]:
    """The commands of a shell block; of a console block only what follows a prompt."""
    lines = text.replace("\\\n", " ").splitlines()
    if language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The files that the snippets speak of."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("docs")
    data = load("fashion-mnist-mini", "train")
    chosen = torch.arange(0, 10_000, 400)[:24]
    images, labels = data.images[chosen].contiguous(), data.labels[chosen]
    for number, (image, label) in enumerate(zip(images, labels)):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize((72, 64))
        kind = re.sub(r"\W+", "-", data.classes[label])
        for name in ("photos", "shifted", f"labelled/train/{kind}", f"labelled/test/{kind}"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            picture.save(folder / name / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(data.classes), encoding="utf-8")
    folders = [re.sub(r"\W+", "-", name) for name in data.classes]
    (folder / "folders.txt").write_text("\n".join(folders), encoding="utf-8")
    torch.manual_seed(0)
    save_file(build("torchvision:resnet18", classes=10).state_dict(), folder / "my.safetensors")
    few = LabelledImages(images, labels, data.classes, data.name)
    bundle = train("cta", "acclimate:resnet8", few, with_epochs(PRESETS["small"], 0), Run())
    bundle.save(folder / "quickstart" / "bundle")
    return folder


@pytest.fixture
def own_tables():
    """Rows that a page adds are gone after it."""
    with patch.dict(OBJECTIVES), patch.dict(RECIPES), patch.dict(METHODS):
        yield


def run_commands(commands: list[str]) -> None:
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "acclimate", f"{command!r} cannot be tested; mark it"
        cli.main(arguments)


@pages
def test_commands_are_understood(page, prepared, monkeypatch):
    """Whatever takes long is at least no misspelled option."""
    monkeypatch.chdir(prepared)
    given = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: given.append("parsed"))
    monkeypatch.setattr(cli, "repeat_bits", stop)
    told = [
        command
        for _, language, text in blocks(page)
        if language in SHELL
        for command in commands(language, text)
        if command.startswith("acclimate ")
    ]
    for command in told:
        with pytest.raises(ParsedError):
            run_commands([command])
    assert given == ["parsed"] * len(told)


class ParsedError(Exception):
    pass


def stop():
    raise ParsedError


@running_pages
@pytest.mark.usefixtures("own_tables")
def test_snippets_run(page, prepared, tmp_path, monkeypatch):
    if page.name != "bench.md":  # one page with processes of its own is enough
        monkeypatch.setattr(engines, "processes", lambda *_: engines.here)
    place = tmp_path / "place"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("ACCLIMATE_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {"__name__": page.stem}
    for reason, language, text in blocks(page):
        if reason:
            continue
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language in SHELL:
            run_commands(commands(language, text))
        else:
            assert language in PROSE, f"nobody knows how to run {language}"


@pages
def test_only_what_installs_or_takes_minutes_is_not_run(page):
    for reason, language, text in blocks(page):
        if reason:
            assert language in SHELL, f"{page.name} leaves a {language} block out"
            for command in commands(language, text):
                assert CANNOT_RUN.match(command), f"{page.name} leaves out {command!r}"


@pages
def test_every_fence_is_read(page):
    fences = len(re.findall("^```", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert fences == 2 * len(blocks(page))


@pages
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_method_has_a_row_and_a_page():
    page = ROOT / "docs" / "methods.md"
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([^|]+) \|.*\]\((\S+)\) \|$", page.read_text(encoding="utf-8"), re.M
    )
    assert [name for name, _, _ in rows] == list(METHODS)
    for name, answers, target in rows:
        assert METHODS[name].model in answers
        assert name in (page.parent / target).read_text(encoding="utf-8")


def test_every_column_of_the_results_is_explained():
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    section = text.split("## The columns of results.csv")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.M)) == COLUMNS


def test_the_reference_is_what_the_code_says():
    assert REFERENCE.read_text(encoding="utf-8") == reference(), (
        "the settings changed: run python tests/test_docs.py to write the page anew"
    )


def test_the_reference_names_each_setting_with_its_value():
    text = reference()
    for path, value in flat(PRESETS["paper"]).items():
        small = flat(PRESETS["small"])[path]
        assert re.search(rf"^\| `{path}` \|.*\| {shown(small)} \| {shown(value)} \|$", text, re.M)


def reference() -> str:
    """docs/reference-settings.md, from the code."""
    columns = [flat(STUDY.settings), flat(PRESETS["small"]), flat(PRESETS["paper"])]
    said = meanings(SourceSettings)
    source = [
        [f"`{name}`", said[name], *(shown(column[name]) for column in columns)] for name in said
    ]
    said = meanings(AdapterSettings)
    adapter = [
        [f"`{field.name}`", said[field.name]]
        + [shown(getattr(row.settings, field.name)) for row in METHODS.values()]
        for field in fields(AdapterSettings)
    ]
    methods = [
        [
            f"`{name}`",
            row.summary,
            ", ".join(RECIPES[row.recipe].stages),
            f"the {row.model}",
            row.citation,
        ]
        for name, row in METHODS.items()
    ]
    return f"""\
# Reference: settings

This page is generated from the code by `python tests/test_docs.py`, and a test compares the two.

On the command line a setting is an option of its name with hyphens: `align.learning_rate` is
`--align.learning-rate`. From Python, change a field with `dataclasses.replace`.

## Source stages

`acclimate train METHOD` uses those of the stages that the method's recipe names (see
[methods](#methods)), `acclimate align` those of the contrastive and the alignment stage.
`--preset small` is the default; `paper` holds the published settings; `quickstart` is what
`acclimate quickstart` trains with.

{table(["setting", "meaning", "quickstart", "small", "paper"], source)}

## Methods

[Methods](methods.md) explains each.

{table(["method", "what it is", "stages", "who answers", "source"], methods)}

## Adapter settings of each method

`acclimate adapt --method NAME` starts from the method's column; from Python, so does
`replace(acclimate.methods.METHODS[NAME].settings, ...)`.

{table(["setting", "meaning", *METHODS], adapter)}
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def flat(settings, prefix: str = "") -> dict[str, object]:
    """Settings by their dotted names."""
    found = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        name = prefix + field.name
        found |= flat(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def meanings(kind: type, prefix: str = "") -> dict[str, str]:
    """What the code says below each field, by dotted name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    texts = {
        field.target.id: " ".join(after.value.value.split()).replace("``", "`")
        for field, after in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
    }
    found = {}
    for field in fields(kind):
        name = prefix + field.name
        found |= (
            meanings(field.type, f"{name}.")
            if is_dataclass(field.type)
            else {name: texts[field.name]}
        )
    return found


def shown(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
