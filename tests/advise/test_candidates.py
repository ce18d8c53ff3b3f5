from dataclasses import replace

import pytest

from acclimate.advise.candidates import candidates, usual_methods
from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.source.loop import Run

RUN = Run(device="cpu")


@pytest.mark.parametrize("which", ["bundle", "group_norm_bundle"])
@pytest.mark.parametrize("twin", [True, False])
def test_a_bundle_can_run_its_usual_methods(which, twin, request):
    bundle = request.getfixturevalue(which)
    if not twin:
        bundle = replace(bundle, twin=None, recipe="supervised", method="source", objective=None)
    found, left_out = candidates(bundle, (8,), (), RUN)
    assert not left_out
    assert [str(each.variant) for each in found] == usual_methods(bundle)
    assert any("acclimate" in name for name in usual_methods(bundle)) == twin


def test_what_normalises_by_the_batch_alone_gets_no_single_images(bundle):
    found, left_out = candidates(bundle, (1, 8), ("ptbn", "tent", "acclimate"), RUN)
    kept = {(each.variant.method, each.batch) for each in found}
    assert kept == {("ptbn", 8), ("tent", 8), ("acclimate", 1), ("acclimate", 8)}
    assert len(left_out) == 2 and all("by the batch alone" in reason for reason in left_out)


def test_what_the_bundle_lacks_is_left_out_with_the_reason(group_norm_bundle):
    found, left_out = candidates(group_norm_bundle, (8,), ("ptbn", "tent"), RUN)
    assert [each.variant for each in found] == [Variant("tent")]
    assert "this model has no batch norm" in left_out[0]


@pytest.mark.parametrize(
    ("batches", "methods", "said"),
    [
        ((), (), "at least 1 image"),
        ((8, 0), (), "at least 1 image"),
        ((8,), ("tend",), "unknown method 'tend'"),
        ((8,), ("tent:nothing=1",), "unknown setting"),
    ],
)
def test_what_cannot_be_meant_is_refused(bundle, batches, methods, said):
    with pytest.raises(InputError, match=said):
        candidates(bundle, batches, methods, RUN)
