import math
from dataclasses import replace

from acclimate.evaluate.variant import Variant
from acclimate.report.each_part import each_part, parts_shown
from acclimate.report.gains import gain_between

COUNTS = {
    "source": (8, 4), "bn-adapt": (9, 7), "tent": (14, 11), "tent:steps=0": (12, 9),
    "tent:normalisation=source": (7, 6), "cta": (18, 16), "cta:steps=0": (17, 12),
    "ptbn:normalisation.prior=16": (9, 9),
}  # fmt: skip


def cells_of(measured, share, names=COUNTS, **options):
    return [
        measured(name, corruption, share(count), **options)
        for name in names
        for corruption, count in zip(("fog", "contrast"), COUNTS[name])
    ]


def test_each_part_is_the_method_against_itself_without_it(measured, share):
    cells = [*cells_of(measured, share), measured("tent", "saturate", share(0))]
    rows = {row.name: row for row in each_part(cells, held_out=("saturate",))}
    # What is there for another's sake has no row of its own.
    assert list(rows) == ["bn-adapt", "tent", "cta", "ptbn:normalisation.prior=16"]
    tent = rows["tent"]
    assert list(tent.parts) == ["statistics", "steps"]
    assert round(tent.parts["statistics"].difference * 40) == 25 - 13
    assert round(tent.parts["steps"].difference * 40) == 25 - 21
    assert round(tent.whole.difference * 40) == 25 - 12
    steps = tent.parts["steps"]
    assert steps.low <= steps.difference <= steps.high
    on, off = (
        [c for c in cells if str(c.cell.variant) == name] for name in ("tent", "tent:steps=0")
    )
    assert steps == gain_between(on[:2], off)
    cta = rows["cta"]
    assert list(cta.parts) == ["alignment", "steps"]  # not measured without its memory
    assert round(cta.parts["alignment"].difference * 40) == 29 - 16
    assert cta.measured["alignment"] == (Variant.parse("cta:steps=0"), Variant("bn-adapt"))
    assert parts_shown(list(rows.values())) == ["statistics", "alignment", "steps"]


def test_without_answers_there_are_differences_without_intervals(measured, share):
    cells = cells_of(measured, share)
    bare = [each._replace(cell=replace(each.cell, answers=None)) for each in cells]
    tent = each_part(bare)[1]
    assert round(tent.parts["steps"].difference * 40) == 4
    assert math.isnan(tent.parts["steps"].low)


def test_bundles_are_apart_and_other_images_no_partners(measured, share):
    cells = cells_of(measured, share, ("tent",), bundle="one")
    cells += cells_of(measured, share, ("tent:steps=0",), bundle="two")
    cells += cells_of(measured, share, ("tent:normalisation=source",), bundle="one", images="x")
    assert each_part(cells) == []
