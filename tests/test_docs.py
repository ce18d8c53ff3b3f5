"""The pages of docs/ and the README do what they say.

Snippets run as they stand. ``python tests/test_docs.py`` writes docs/reference-settings.md anew.
"""

import ast
import functools
import inspect
import itertools
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from torchvision.models.resnet import BasicBlock, ResNet

from acclimate import cli
from acclimate.advise.settings_file import SettingsFile, save
from acclimate.backbones import build
from acclimate.bundle_record import read_record
from acclimate.commands.machine_checks import EXTRAS
from acclimate.data import LabelledImages, load
from acclimate.evaluate.results import COLUMNS
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, RECIPES, AdapterSettings, changed, settings_record
from acclimate.methods.kinds import KINDS
from acclimate.objectives import OBJECTIVES
from acclimate.quickstart import STUDY
from acclimate.runtime import workers
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
    r"make\b|pip\b|source \.venv/|python3? -m (pip|venv)\b|git clone\b|cd\b|"
    r"acclimate (quickstart|serve)\b"
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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
    """A folder with the files that the snippets speak of; not to be changed."""
    folder = tmp_path_factory.mktemp("docs")
    with narrow_networks():
        prepare(folder)
    return folder


def prepare(folder: Path) -> None:
    """Write the files that the snippets speak of."""
    from safetensors.torch import save_file

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
    function = "    return torchvision.models.resnet18(num_classes=classes)"
    (folder / "mine.py").write_text(f"import torchvision\n\ndef network(classes):\n{function}\n")
    torch.manual_seed(0)
    save_file(build("torchvision:resnet18", classes=10).state_dict(), folder / "my.safetensors")
    few = LabelledImages(images, labels, data.classes, data.name)
    bundle = train("cta", "acclimate:resnet8", few, with_epochs(PRESETS["small"], 0), Run())
    bundle.save(folder / "quickstart" / "bundle")
    weights = read_record(folder / "quickstart" / "bundle")["weights_sha256"]
    save(folder / "advice.json", SettingsFile(Variant("bn-adapt"), 64, "off", weights))


@pytest.fixture
def own_tables():
    """Rows that a page adds are gone after it."""
    with ExitStack() as stack:
        for rows in (OBJECTIVES, RECIPES, METHODS, *KINDS.values()):
            stack.enter_context(patch.dict(rows))
        yield


def run_commands(commands: list[str]) -> None:
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "curl" and shutil.which(program):
            subprocess.run([program, "--fail", "--silent", *arguments], check=True, timeout=60)
            continue
        assert program == "acclimate", f"{command!r} cannot be tested; mark it"
        cli.main(arguments)


@pages
def test_commands_are_understood(page, prepared, monkeypatch):
    """Commands that take long are only parsed."""
    monkeypatch.chdir(prepared)
    given = []

    def stop(verb, command):
        given.append("parsed")
        raise ParsedError

    monkeypatch.setattr(cli, "run", stop)
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


@contextmanager
def narrow_networks() -> Iterator[None]:
    """In place of two networks, similar ones of fewer channels: snippets take a tenth of the time.

    timm's EfficientNet-Lite0 is for images of 64 pixels then.
    """
    from timm.models import _registry, efficientnet
    from torchvision import models
    from torchvision.models import _api

    lite = "tf_efficientnet_lite0"
    stated = replace(_registry.get_pretrained_cfg(lite), input_size=(3, 64, 64))

    def build(**options):
        width = {"channel_multiplier": 0.1, "depth_multiplier": 0.1}
        return efficientnet._gen_efficientnet_lite(lite, pad_type="same", **width, **options)

    @functools.wraps(models.resnet18)
    def resnet18(*, weights=None, num_classes=1000):
        return NarrowResNet(num_classes)

    with (
        patch.dict(_registry._model_entrypoints, {lite: build}),
        patch.dict(_registry._model_pretrained_cfgs, {lite: stated}),
        patch.dict(_api.BUILTIN_MODELS, {"resnet18": resnet18}),
        patch.object(models, "resnet18", resnet18),
    ):
        yield


class NarrowResNet(ResNet):
    """A ResNet-18 with an eighth of the channels after its stem."""

    def __init__(self, classes: int):
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = torch.nn.Linear(512 // 8, classes)

    def _make_layer(self, block, planes, blocks, **options):
        return super()._make_layer(block, planes // 8, blocks, **options)


@pages
@pytest.mark.usefixtures("own_tables", "few_trials")
def test_snippets_run(page, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "place")
    with narrow_networks(), served(page, tmp_path / "place") as server:
        run_snippets(page, tmp_path / "place", monkeypatch, server)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/my-own-classifier.md", "docs/checkpoints.md"])
@pytest.mark.usefixtures("own_tables")
def test_snippets_run_with_the_networks_that_they_name(name, tmp_path, monkeypatch):
    prepare(tmp_path / "place")
    run_snippets(ROOT / name, tmp_path / "place", monkeypatch)


SERVER = "127.0.0.1:8000"
"""Where the snippets of one page ask."""


@contextmanager
def served(page: Path, place: Path) -> Iterator[str]:
    """A server for the page whose snippets ask one; yields where it is."""
    if page.name not in ("serve.md", "serve-operate.md"):
        yield SERVER
        return
    from serving import Served

    from acclimate.serve.engine import Engine

    with Served(Engine(place / "quickstart" / "bundle")) as server:
        yield f"127.0.0.1:{server.port}"


def run_snippets(
    page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, server: str = SERVER
) -> None:
    """Run a page's snippets, in a folder."""
    # One command with processes of its own is enough: the first of one page.
    engines = iter([workers.processes] if page.name == "bench.md" else [])
    here = lambda *_: workers.here  # noqa: E731
    monkeypatch.setattr(workers, "processes", lambda *given: next(engines, here)(*given))
    monkeypatch.chdir(place)
    monkeypatch.setenv("ACCLIMATE_CACHE", str(place / "cache"))
    names: dict[str, object] = {"__name__": page.stem}
    for reason, language, text in blocks(page):
        if reason:
            continue
        text = text.replace(SERVER, server)
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
        if anchor and linked.suffix == ".md":
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


def test_every_group_of_optional_packages_has_its_row():
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.M)
    told = {name: (tuple(packages.split(", ")), brings) for name, packages, brings in rows}
    assert told == EXTRAS


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


def test_the_reference_names_every_setting_of_every_part():
    text = reference()
    for part, kinds in KINDS.items():
        section = text.split(f"\n### `{part}`\n")[1].split("\n#")[0]
        for name, kind in kinds.items():
            assert f"**`{name}`** (`{kind.__name__}`" in section
        for field in itertools.chain.from_iterable(fields(kind) for kind in kinds.values()):
            assert re.search(rf"^\| `{setting(part, field.name)}` \| .+ \|$", section, re.M)


def test_the_settings_of_a_method_can_be_read_from_the_reference():
    section = reference().split("## The parts of each method")[1]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    (_, *names), _, *methods = rows
    assert [row[0].strip("`") for row in methods] == list(METHODS)
    for method, *cells in methods:
        made = AdapterSettings()
        for name, cell in zip(names, cells, strict=True):
            if cell != "-":
                value = meant(name.strip("`"), cell.strip("`"))
                made = changed(made, {name.strip("`"): value})
        assert made == METHODS[method.strip("`")].settings


def meant(name: str, cell: str) -> object:
    """The value of a cell such as ``sgd(learning_rate=0.01)`` or ``True``."""
    if name not in KINDS:
        return ast.literal_eval(cell)
    parts = tuple(
        KINDS[name][kind](
            **{
                word.arg: ast.literal_eval(word.value)
                for word in ast.parse(f"dict({given})", mode="eval").body.keywords
            }
        )
        for kind, given in re.findall(r"([\w-]+)(?:\((.*?)\))?(?:, |$)", cell)
    )
    return parts if name == "aftermath" else parts[0]


def reference() -> str:
    """docs/reference-settings.md, from the code."""
    columns = [flat(STUDY.settings), flat(PRESETS["small"]), flat(PRESETS["paper"])]
    said = meanings(SourceSettings)
    source = [
        [f"`{name}`", said[name], *(shown(column[name]) for column in columns)] for name in said
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

On the command line, each setting is an option of the same name with hyphens:
`align.learning_rate` is `--align.learning-rate`, and `update.learning_rate` is
`--update.learning-rate`.

## Source stages

`acclimate train METHOD` uses the settings of the stages that the method's recipe names (see
[methods](#methods)). `acclimate align` uses those of the contrastive and the alignment stage.
`--preset small` is the default. `paper` holds the published settings. `quickstart` is what
`acclimate quickstart` trains with. From Python, change a field of `PRESETS["small"]` with
`dataclasses.replace`.

{table(["setting", "meaning", "quickstart", "small", "paper"], source)}

## Methods

[Methods](methods.md) explains each.

{table(["method", "what it is", "stages", "who answers", "source"], methods)}

## Adapter settings

An adapter is composed of parts ([how it works](how-it-works.md#the-loop)). Most parts have several
kinds, and each kind has its own settings. A method chooses a kind of each part and sets its values
([below](#the-parts-of-each-method)). These are the names and the defaults of `AdapterSettings()`:

{table(["setting", "meaning", "default"], top())}

To change a setting of a part, give its full name. To change the kind of a part, give the kind's
name; settings that both kinds have are kept. On the command line:

```text
acclimate adapt ... --steps 3 --update.learning-rate 1e-4
acclimate adapt ... --update sgd --update.momentum 0.9 --reset never
```

The same in Python, with `METHODS` and `changed` from `acclimate.methods`:

```text
Adapter(bundle, "cta", steps=3, update={{"learning_rate": 1e-4}})
Adapter(bundle, "cta", update=SGD(1e-4, momentum=0.9), reset="never")
changed(METHODS["cta"].settings, {{"update.learning_rate": 1e-4, "normalisation.prior": 32}})
```

The classes of the kinds are in `acclimate.objectives` and in the modules that are named below.

{"".join(part(name) for name in KINDS)}## The parts of each method

`acclimate adapt --method NAME` and `acclimate.Adapter(bundle, NAME)` start from these settings.
Parts and values that are not shown are the defaults above; "-" is the default, too.

{table(["method", *(f"`{name}`" for name in varied())], composed())}
"""


def top() -> list[list[str]]:
    """A row for each field of an adapter's settings."""
    said, record = own_meanings(AdapterSettings), settings_record(AdapterSettings())
    rows = []
    for name, value in record.items():
        default = f"`{value['kind']}`" if isinstance(value, dict) else shown(value)
        label = f"[`{name}`](#{name})" if name in KINDS else f"`{name}`"
        rows.append([label, said[name], "none" if value in (None, []) else default])
    return rows


def part(name: str) -> str:
    """The section on a part: its kinds with their settings."""
    text = f"### `{name}`\n\n"
    if name == "aftermath":
        text += "Any number of these, in a tuple; `0` in a name stands for the first.\n\n"
    for kind, cls in KINDS[name].items():
        home = "" if name == "objective" else f", `{cls.__module__}`"
        said, what = own_meanings(cls), cls.kind if name == "objective" else cls
        summary = " ".join(inspect.cleandoc(what.__doc__).split("\n\n")[0].split())
        text += f"**`{kind}`** (`{cls.__name__}`{home}): {summary.replace('``', '`')}\n\n"
        rows = [[f"`{setting(name, f.name)}`", said[f.name], shown(f.default)] for f in fields(cls)]
        text += f"{table(['setting', 'meaning', 'default'], rows)}\n\n" if rows else ""
    return text


def setting(part: str, name: str) -> str:
    """The full name of a part's setting."""
    return f"{part}.0.{name}" if part == "aftermath" else f"{part}.{name}"


def varied() -> list[str]:
    """The fields in which some method differs from the defaults."""
    return [
        field.name
        for field in fields(AdapterSettings)
        if any(getattr(row.settings, field.name) != field.default for row in METHODS.values())
    ]


def composed() -> list[list[str]]:
    """A row for each method: its parts, with the values that differ from the defaults."""
    default, rows = settings_record(AdapterSettings()), []
    for name, row in METHODS.items():
        record = settings_record(row.settings)
        cells = [
            "-" if record.get(f) == default.get(f) else f"`{called(f, record[f])}`"
            for f in varied()
        ]
        rows.append([f"`{name}`", *cells])
    return rows


def called(name: str, value: object) -> str:
    """A value, or a part as a call of its kind, with the settings that are not the kind's own."""
    if isinstance(value, list):
        return ", ".join(called(name, part) for part in value)
    if not isinstance(value, dict):
        return repr(value)
    kind = value["kind"]
    usual = {field.name: field.default for field in fields(KINDS[name][kind])}
    given = [f"{key}={value[key]!r}" for key in usual if value[key] != usual[key]]
    return f"{kind}({', '.join(given)})" if given else kind


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
    texts, found = own_meanings(kind), {}
    for field in fields(kind):
        name = prefix + field.name
        found |= (
            meanings(field.type, f"{name}.")
            if is_dataclass(field.type)
            else {name: texts[field.name]}
        )
    return found


def own_meanings(kind: type) -> dict[str, str]:
    """What the code says below each field of a class and its bases."""
    texts = {}
    for base in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        texts |= {
            field.target.id: " ".join(after.value.value.split()).replace("``", "`")
            for field, after in itertools.pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
        }
    return texts


def shown(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
