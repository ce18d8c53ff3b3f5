"""Every table of figures in README and docs says what the committed results say."""

import csv
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "build"))
try:
    import tables
finally:
    sys.path.pop(0)

RESULTS = [
    ("source", "small", "none", 0, 0.8, 10),
    ("source", "small", "fog", 0, 0.5, 10),
    ("source", "small", "snow", 0, 0.3, 10),
    ("source", "small", "saturate", 0, 0.9, 10),  # held out: it counts nowhere
    ("source", "small", "none", 1, 0.6, 10),
    ("source", "small", "fog", 1, 0.1, 10),
    ("source", "small", "snow", 1, 0.1, 10),
    ("tent", "small", "none", 0, 0.7, 10),
    ("tent", "small", "fog", 0, 0.6, 10),
    ("tent", "small", "snow", 0, 0.5, 10),
    ("tent", "small", "none", 1, 0.8, 10),
    ("tent", "small", "fog", 1, 0.62, 10),
    ("tent", "small", "snow", 1, 0.52, 10),
    ("tent", "small", "fog", 2, 0.0, 10),  # a seed that is not done
    ("tent:update.learning_rate=0", "small", "none", 0, 0.1, 10),
    ("tent:update.learning_rate=0", "small", "none", 1, 0.2, 10),
    ("tent:update.learning_rate=0", "small", "fog", 0, 0.45, 10),
    ("y", "small", "none", 0, 0.9, 10),
    ("y", "small", "fog", 0, 0.2, 10),
    ("y", "small", "snow", 0, 0.2, 10),
    ("source", "large", "none", 0, 0.95, 20),
    ("source", "large", "fog", 0, 0.95, 20),
]


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path):
    header = ("method", "bundle", "corruption", "seed", "accuracy", "n_images")
    write(tmp_path / "results.csv", header, RESULTS)
    few = [row[:1] + row[2:] for row in RESULTS if row[1] == "small" and row[3] == 0]
    write(tmp_path / "one.csv", ("method", "corruption", "seed", "accuracy", "n_images"), few)
    header = ("method", "bundle", "corruption", "order", "batch", "accuracy", "n_images")
    rows = [("y", "b", "fog", "shuffled", 8, 0.5, 10), ("y", "b", "snow", "shuffled", 8, 0.8, 20)]
    rows += [("y", "b", "none", "shuffled", 8, 1, 10), ("y", "b", "fog", "mixed", 128, 0.3, 10)]
    write(tmp_path / "streams.csv", header, rows)
    header = ("method", "bundle", "order", "batch", "tenth", "accuracy")
    rows = [("y", "b", "mixed", 128, tenth, tenth / 10) for tenth in (1, 2, 3)]
    columns = ("name", "head", "difference", "source", "ptbn", "tent", "cta")
    tried = [("timm:a", "linear", "0", "works", "works", "works", "works")]
    tried += [("timm:b", "recorded", "1e-9", "works", "works", "works", "refused: maps")]
    tried += [("timm:c", "not tried: large", *["-"] * 5), ("timm:d", "refused: no", *["-"] * 5)]
    write(tmp_path / "architectures.csv", columns, tried)
    write(tmp_path / "along.csv", header, [*rows, ("y", "b", "mixed", 8, 1, 0)])
    header = ("setting", "method", "clean", "mean")
    write(tmp_path / "held_out.csv", header, [("rate 1", "cta", 0.9, 0.123), ("2", "cta", 0, 0)])
    rows = [("y", "faster", 20, 0.5), ("y", "slower", 20, 0.25), ("y", "slower", 40, 0.125)]
    write(tmp_path / "changed.csv", ("method", "change", "steps", "accuracy"), rows)
    header = ("method", "corruption", "cosine", "cosine_error", "fall", "fall_error")
    write(tmp_path / "agreement.csv", header, [("ttt", "fog", 0.12345, 0.01, -0.5, 0.2)])
    header = ("claim", "where", "images", "difference", "low", "high")
    write(tmp_path / "claims.csv", header, [("a beats b", "clean", 9, 0.02, -0.01, 0.05)])
    header = ("batch", "called", "protocol", "bundle", "images", "clean", "corrupted", "gain",
              "gain_low", "gain_high")  # fmt: skip
    rows = [(8, "source", "reset", "b", 9, 0.5, 0.25, "", "", "")]
    rows += [(8, "tent, slow", "reset", "b", 9, 0.75, 0.3, 0.05, -0.01, 0.1)]
    write(tmp_path / "summary.csv", header, rows)
    header = ("method", "statistics", "part", "steps", "drift", "worse")
    rows = [("y", "own", "encoder", 20, 1.234, 7), ("y", "own", "projector", 20, "nan", 0)]
    write(tmp_path / "drift.csv", header, rows)
    limits = ("gain", "low", "high")
    both = [f"{name}_{each}" for name in ("unguarded", "guarded") for each in limits]
    write(tmp_path / "harm.csv", ("stream", "method", "frozen", *both),
          [("fog, grows", "tent", 40.26, -3, -4, -2, 0.25, -0.1, 0.5)])  # fmt: skip
    more = [f"{name}_{each}" for name in ("unguarded", "guarded") for each in ("worst", "below",
            "surely")] + ["streams", "good", "kept", "least_kept", "least_kept_on"]  # fmt: skip
    write(tmp_path / "harm_summary.csv", ("method", *both, *more),
          [("tent", -30, -32, -28, -0.6, -1, 0, "noise", 4, 3, "fog", 1, 0, 9, 5, 91.25, 7, "fog"),
           ("none", -1, -2, 0, 0, 0, 0, "noise", 1, 1, "fog", 0, 0, 9, 0, "", "", "")])  # fmt: skip
    header = ("stream", "judged_by", "images", "switches", "found", "told", "false")
    rows = [("ends", "switches", 3000, 2, 1, 3, 2), ("grows", "switches", 1000, 1, 1, 1, 0)]
    write(tmp_path / "harm_changes.csv", header, [*rows, ("sorted", "nothing", 500, 0, 0, 4, "")])
    columns = ["method", "part", "steps", "davies_bouldin", "drift"]
    rows = [["y", "encoder", 0, 1.0, 4.0], ["y", "encoder", 0, 2.0, 5.0]]
    rows += [["y", "projector", 0, 3.0, None]]
    record = {"columns": columns, "rows": rows}
    (tmp_path / "semantics.json").write_text(json.dumps(record))
    columns = ["method", "temperature", "clean", "corrupted"]
    rows = [["source", "", 0.5, 0.25], ["aligned", "0.1", 0.75, 0.125]]
    (tmp_path / "temperature.json").write_text(json.dumps({"columns": columns, "rows": rows}))
    record = {"r_gain_ttt_online": {"r": 0.123, "low": -0.1, "high": 0.345001}}
    (tmp_path / "gradients.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize(
    "mark, header, given, expected",
    [
        ("figures: one.csv", "| who | what | clean | all |", "| `tent` | learns |",
         "| `tent` | learns | 70.0 | 55.0 |"),
        ("figures: results.csv", "| who | of | what | clean | all |",
         "| **tent** | small | words | 0 | 0 |", "| **tent** | small | words | 75.0 | 56.0 |"),
        ("figures: held_out.csv", "| a | b | clean | all |", "| rate 1 | `cta` |",
         "| rate 1 | `cta` | 90.0 | 12.3 |"),
        ("adapting: results.csv", "| m | b | n | c | f | p | 0 | c | a |",
         "| `tent` | small | 10 |",
         "| `tent` | small | 10 | 70.0 | 25.0 | - | - | 75.0 | 56.0 ± 1.4 |"),
        ("adapting: results.csv", "| m | b | n | c | f | p | 0 | c | a |", "| y | small | 10 |",
         "| y | small | 10 | 80.0 | 40.0 | - | - | 90.0 | 20.0 |"),
        ("by-corruption: results.csv", "| m | b | n | clean | fog |",
         "| `source` | small | 10 |", "| `source` | small | 10 | **70.0** | **30.0** |"),
        ("arrivals: streams.csv", "| m | b | `mixed` | 8 |", "| `y` | b |",
         "| `y` | b | 30.0 | 70.0 |"),
        ("gains: summary.csv", "| m | b | n | reset 8 clean | reset 8 | mixed 8 |",
         "| `source` | b | 9 |", "| `source` | b | 9 | 50.0 | 25.0 | - |"),
        ("gains: summary.csv", "| m | b | n | reset 8 clean | reset 8 | mixed 8 |",
         "| tent, slow | b | 9 |", "| tent, slow | b | 9 | 75.0 | +5.0 [-1.0, +10.0] | - |"),
        ("along: along.csv", "| m | b | order | 1 | 2 |", "| `y` | b | mixed |",
         "| `y` | b | mixed | 10.0 | 20.0 |"),
        ("architectures: architectures.csv", "| library |", "| `timm` | 7 |",
         "| `timm` | 4 | 3 | 2 | 1 | 0 | 1 | 1 | 2 | 2 | 2 | 1 |"),
        ("refusals: architectures.csv", "| what | why | number | first |",
         "| `cta` | maps |\n| `head` | not tried |\n| `head` | refused |",
         "| `cta` | maps | 1 | `timm:b` |\n| `head` | not tried | 1 | `timm:c` |\n"
         "| `head` | refused | 1 | `timm:d` |"),
        ("harm: harm.csv", "| s | frozen | `tent` | `guarded tent` | guarded roid |",
         "| fog, grows |", "| fog, grows | 40.3 | -3.0 | +0.2 [-0.1, +0.5] | - |"),
        ("harm-summary: harm_summary.csv", "| m | n | low | below | low | below | kept |",
         "| `tent` |\n| none |",
         "| `tent` | 9 | -30.0 [-32.0, -28.0] noise | 4 (3) | -0.6 [-1.0, +0.0] fog | 1 (0) "
         "| 91.2 % of 5; 7.0 % fog |\n| none | 9 | -1.0 [-2.0, +0.0] noise | 1 (1) "
         "| +0.0 [+0.0, +0.0] fog | 0 (0) | - |"),
        ("harm-changes: harm_changes.csv", "| by | streams | n | found | told | false |",
         "| switches |\n| nothing |", "| switches | 2 | 4,000 | 2 of 3 | 4 | 2 (10.00) |\n"
         "| nothing | 1 | 500 | - | 4 | - |"),
        ("changed: changed.csv", "| m | steps | slower | faster |", "| y | 40 | 1 | 2 |",
         "| y | 40 | 12.5 | - |"),
        ("agreement: agreement.csv", "| m | c | cosine | fall |", "| ttt | fog |",
         "| ttt | fog | +0.123 ± 0.010 | -0.500 ± 0.200 |"),
        ("claims: claims.csv", "| claim | where | n | points | verdict |",
         "| a beats b | clean | 1 | 2 | no |",
         "| a beats b | clean | 9 | +2.0 [-1.0, +5.0] | no |"),
        ("semantics: semantics.json", "| m | part | steps | index | drift |", "| y | encoder | 0 |",
         "| y | encoder | 0 | 1.50 | 4.5 |"),
        ("semantics: semantics.json", "| m | part | steps | index | drift |",
         "| y | projector | 0 |", "| y | projector | 0 | 3.00 | - |"),
        ("gradients: gradients.json", "| m | r | verdict |", "| `ttt-online` | 1 | no |",
         "| `ttt-online` | +0.12 [-0.10, +0.35] | no |"),
        ("drift: drift.csv", "| m | of | steps | drift | worse |", "| y | own | 20 | 9 |",
         "| y | own | 20 | 1.23 | 7 |"),
        ("temperature: temperature.json", "| m | tau | clean | mean |", "| `source` | - |",
         "| `source` | - | 50.0 | 25.0 |"),
        ("temperature: temperature.json", "| m | tau | clean | mean |", "| aligned | 0.1 | 9 | 9 |",
         "| aligned | 0.1 | 75.0 | 12.5 |"),
    ],
)  # fmt: skip
def test_figures_of_a_row(folder, mark, header, given, expected):
    page = f"Before.\n<!-- {mark} -->\n{header}\n|---|\n{{}}\n\nAfter | all.\n"
    assert tables.filled(page.format(given), folder) == page.format(expected)


@pytest.mark.parametrize(
    "table",
    [
        "<!-- figures: one.csv -->\n| who | clean | all |\n|---|\n| tant |\n",
        "<!-- figures: held_out.csv -->\n| a | b | clean | all |\n|---|\n| rate 2 | cta |\n",
        "<!-- adapting: results.csv -->\n| m | b | n |\n|---|\n| tent | smell | 10 |\n",
        "<!-- adapting: results.csv -->\n| m | b | n |\n|---|\n"
        "| tent:update.learning_rate=0 | large | 20 |\n",
        "<!-- by-corruption: results.csv -->\n| m | b | n | fog |\n|---|\n| tent | small | 11 |\n",
        "<!-- arrivals: streams.csv -->\n| m | b | 9 |\n|---|\n| y | b |\n",
        "<!-- gains: summary.csv -->\n| m | b | n | reset 8 |\n|---|\n| source | b | 8 |\n",
        "<!-- along: along.csv -->\n| m | b | order | 1 |\n|---|\n| y | b | shuffled |\n",
        "<!-- architectures: architectures.csv -->\n| library |\n|---|\n| torch |\n",
        "<!-- refusals: architectures.csv -->\n| a | b |\n|---|\n| cta | tokens |\n",
        "<!-- refusals: architectures.csv -->\n| a | b |\n|---|\n| cta | maps |\n",
        "<!-- changed: changed.csv -->\n| m | steps | faster |\n|---|\n| y | 30 | 1 |\n",
        "<!-- changed: changed.csv -->\n| m | steps | fast |\n|---|\n| y | 40 | 1 |\n",
        "<!-- agreement: agreement.csv -->\n| m | c |\n|---|\n| ttt | frog |\n",
        "<!-- claims: claims.csv -->\n| claim | where |\n|---|\n| b beats a | clean |\n",
        "<!-- semantics: semantics.json -->\n| m | part | steps |\n|---|\n| y | encoder | 1 |\n",
        "<!-- gradients: gradients.json -->\n| m | r |\n|---|\n| ttt |\n",
        "<!-- drift: drift.csv -->\n| m | of | steps |\n|---|\n| y | own | 0 |\n",
        "<!-- temperature: temperature.json -->\n| m | tau |\n|---|\n| aligned | 0.5 |\n",
        "<!-- figures: one.csv -->\n\n| who | clean | all |\n|---|\n| tent | 99.9 | 99.9 |\n",
    ],
)
def test_what_was_not_measured_is_refused(folder, table):
    with pytest.raises(KeyError):
        tables.filled(table, folder)


def test_the_best_is_bold(folder):
    header = "| m | b | n | clean | fog |\n|---|\n"
    rows = ("| tent | small | 10 |", "| y | small | 10 |", "| source | large | 20 |")
    page = f"<!-- by-corruption: results.csv -->\n{header}" + "\n".join(rows) + "\n"
    *_, first, second, third = tables.filled(page, folder).splitlines()
    assert first.endswith("| 75.0 | **61.0** |")
    assert second.endswith("| **90.0** | 20.0 |")
    assert third.endswith("| 95.0 | 95.0 |")


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_pages_say_what_was_measured(path):
    text = path.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run python docs/build/tables.py"


def test_pages_have_their_tables():
    pages = [path.read_text(encoding="utf-8") for path in tables.PAGES]
    kinds = {kind for page in pages for kind, _, _ in tables.MARKED.findall(page)}
    assert kinds == set(tables.KINDS)
    assert tables.MARKED.search(pages[0])
