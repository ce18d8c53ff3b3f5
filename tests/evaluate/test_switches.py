from dataclasses import replace

import pytest

from acclimate.adapt import Adapter
from acclimate.evaluate.fitting import variants_of
from acclimate.evaluate.switches import PARTS, switched_off, switches_of
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.variant import Variant
from acclimate.methods import METHODS, AdapterSettings, changed, check_settings
from acclimate.methods.method import Method
from acclimate.parts.correction import Uncorrected

FULL = "cta:answer.flip=true,aftermath=pull,update.parameters=norm"


def told(text):
    return {s.part: (str(s.on), str(s.off)) for s in switches_of(Variant.parse(text))}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("source", {}),
        ("ptbn", {"statistics": ("ptbn", "source")}),
        (
            "tent",
            {
                "statistics": ("tent", "tent:normalisation=source"),
                "steps": ("tent", "tent:steps=0"),
            },
        ),
        (
            "aligned-bn",
            {"statistics": ("aligned-bn", "aligned"), "alignment": ("aligned-bn", "bn-adapt")},
        ),
        (
            "cta",
            {
                "statistics": ("cta", "cta:normalisation=source"),
                "alignment": ("cta:steps=0", "bn-adapt"),
                "memory": ("cta", "cta:memory=batch"),
                "steps": ("cta", "cta:steps=0"),
            },
        ),
        # The statistics are moved by the steps: they go on, or there are none to compare.
        (
            "cta-paper",
            {
                "statistics": ("cta-paper", "cta-paper:normalisation=source"),
                "alignment": ("cta-paper:normalisation=source,steps=0", "source"),
                "memory": ("cta-paper", "cta-paper:memory=batch"),
                "steps": ("cta-paper", "cta-paper:update.learning_rate=0"),
            },
        ),
    ],
)
def test_each_part_is_switched_off_alone(method, expected):
    assert told(method) == expected


def test_ensembling_is_of_weights_and_of_views():
    found = told(FULL)
    rest = "update.parameters=norm"
    assert found["ensembling of weights"][1] == f"cta:aftermath=none,answer.flip=true,{rest}"
    assert found["ensembling of views"][1] == f"cta:aftermath=pull,answer.flip=false,{rest}"
    assert found["alignment"][1] == (
        "source:answer.flip=true,normalisation=batch,normalisation.prior=null"
    )


def test_without_its_teacher_a_model_answers_itself():
    off = told("tent:aftermath=teacher,answer=teacher")
    assert off["ensembling of weights"][1] == "tent"  # which it is then
    assert off["steps"][1] == "tent:aftermath=teacher,answer=after,steps=0"
    faster = told("tent:aftermath=teacher,answer=teacher,update.learning_rate=1")
    student = "tent:aftermath=none,answer=after,update.learning_rate=1"
    assert faster["ensembling of weights"][1] == student
    assert Variant.parse(student).settings.aftermath == ()


def test_a_part_is_switched_off_whatever_its_settings():
    found = told("tent:normalisation.prior=16,steps=3")
    assert found["statistics"][1] == "tent:normalisation=source,steps=3"
    assert found["steps"][1] == "tent:normalisation.prior=16,steps=0"


@pytest.mark.parametrize("name", METHODS)
def test_every_row_has_the_parts_that_its_settings_have(name):
    """Those that are told differ from the method in the one part; those that are not are plain."""
    settings, plain = METHODS[name].settings, AdapterSettings()
    found = {switch.part: switch for switch in switches_of(Variant(name))}
    assert list(found) == [part for part in PARTS if part in found]
    places = {"statistics": "normalisation", "correction": "correction"}
    if settings.steps:
        places |= {"selection": "selection", "memory": "memory"}
    for part, place in places.items():
        assert (part in found) == (getattr(settings, place) != getattr(plain, place))
        if part in found:
            off = found[part].off.settings
            same = replace(off, **{place: getattr(settings, place)})
            assert getattr(off, place) == getattr(plain, place) and same == settings
    assert ("steps" in found) == (settings.steps > 0)
    assert ("alignment" in found) == (METHODS[name].model == "twin")
    for switch in found.values():
        for variant in (switch.on, switch.off):
            check_settings(variant.settings)
            assert Variant.parse(str(variant)) == variant


def test_a_correction_of_a_new_row_is_found(monkeypatch):
    class Doubled(Uncorrected):
        pass

    row = METHODS["tent"]
    other = replace(row, settings=replace(row.settings, correction=Doubled()))
    monkeypatch.setitem(METHODS, "mine", other)
    assert told("mine")["correction"] == ("mine", "tent")  # which it is then
    assert Variant.parse("mine:correction=none").settings == row.settings
    twin = Method("a twin", "-", "cta", replace(row.settings, correction=Doubled()), "twin")
    monkeypatch.setitem(METHODS, "ours", twin)
    assert "alignment" not in told("ours")  # its correction has no name: no variant says it


def test_a_grid_measures_what_fits(saved, bundle_of, data, tmp_path):
    bundle_of("clust3").save(tmp_path / "clust3")
    bundles = {"b": saved, "clust3": tmp_path / "clust3"}
    found = variants_of(bundles, [Variant("tent"), Variant("cta")], parts=True)
    assert [str(variant) for variant in found["b"]] == [
        "tent", "cta", "tent:normalisation=source", "tent:steps=0", "cta:normalisation=source",
        "cta:steps=0", "bn-adapt", "cta:memory=batch",
    ]  # fmt: skip
    assert [str(variant) for variant in found["clust3"]] == ["bn-adapt"]
    plain = Grid(("fog",), methods=("tent",))
    tasks = tasks_of(replace(plain, parts=True), {"b": saved}, data)
    assert tasks_of(plain, {"b": saved}, data) == tasks[:1]
    assert [str(task.variant) for task in tasks[1:]] == [
        str(variant) for variant in switched_off([Variant("tent")])
    ]


def test_no_step_and_a_step_of_nothing_answer_alike(bundle, data):
    """``steps=0`` is the method without its steps: the control at learning rate 0, but cheaper."""
    for name in ("tent", "cta"):
        settings = changed(METHODS[name].settings, {"precision": "fp32"})
        none = Adapter(bundle, name, changed(settings, {"steps": 0}), device="cpu")
        still = Adapter(
            bundle, name, changed(settings, {"update.learning_rate": 0.0}), device="cpu"
        )
        assert none(data.images).allclose(still(data.images), atol=1e-5)


def test_an_aftermath_can_be_left_out():
    settings = changed(METHODS["tent"].settings, {"aftermath": "pull"})
    assert len(settings.aftermath) == 1
    assert changed(settings, {"aftermath": "none"}) == METHODS["tent"].settings


@pytest.mark.parametrize("name", ["cotta", "rotta", "petta", "rmt"])
def test_a_teacher_that_the_objective_asks_is_not_switched_off(bundle_of, name):
    """An adapter can be made of every variant."""
    switches = switches_of(Variant(name))
    assert "ensembling of weights" not in {switch.part for switch in switches}
    for switch in switches:
        Adapter(bundle_of(name), name, switch.off.settings, device="cpu")
