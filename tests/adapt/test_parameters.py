from collections import OrderedDict

import pytest
import torch
from torch import nn

from acclimate.adapt.parameters import Backup, batch_norms, select_parameters
from acclimate.errors import InputError


@pytest.fixture
def encoder():
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 4, 3),
            batch=nn.BatchNorm2d(4),
            group=nn.GroupNorm(2, 4),
            instance=nn.InstanceNorm2d(4, affine=True),
            deep=nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            flat=nn.Flatten(),
            layer=nn.LayerNorm(4),
        )
    )


def moving(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


NORMS = {"batch", "group", "instance", "deep.1", "layer"}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", {"first", "deep.0"} | NORMS),
        ("norm", NORMS),
        (r"^deep\.", {"deep.0", "deep.1"}),
        ("atch|first", {"batch", "first"}),
    ],
)
def test_parameters_by_name(encoder, which, expected):
    encoder.requires_grad_(False)
    chosen = select_parameters(encoder, which)
    names = {f"{name}.{kind}" for name in expected for kind in ("weight", "bias")}
    assert moving(encoder) == names
    assert [id(p) for p in chosen] == [id(p) for p in encoder.parameters() if p.requires_grad]


def test_a_norm_on_its_own():
    assert len(select_parameters(nn.BatchNorm2d(3), "norm")) == 2


@pytest.mark.parametrize("which", ["", "weight"])
def test_an_empty_pattern_is_found_everywhere(encoder, which):
    assert len(select_parameters(encoder, which)) == (14 if which == "" else 7)


@pytest.mark.parametrize(("which", "reason"), [("no such", "matches"), ("*", "regular expression")])
def test_patterns_that_select_nothing_are_refused(encoder, which, reason):
    encoder.requires_grad_(False)
    with pytest.raises(InputError, match=reason):
        select_parameters(encoder, which)
    assert moving(encoder) == set()


def test_norm_without_norms_is_refused():
    with pytest.raises(InputError, match="'norm'"):
        select_parameters(nn.Linear(2, 2), "norm")


def test_batch_norms_are_those_with_running_statistics(encoder):
    assert [id(norm) for norm in batch_norms(encoder)] == [id(encoder.batch)]


def test_backup_goes_back_in_place():
    tensors = [torch.arange(3.0), torch.tensor(7), torch.ones(2, 2, dtype=torch.bfloat16)]
    kept = [tensor.clone() for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    backup = Backup(tensors)
    for _ in range(2):
        for tensor in tensors:
            tensor.mul_(3).add_(1)
        backup.restore()
        assert all(torch.equal(x, y) for x, y in zip(tensors, kept))
    tensors[0].fill_(5)
    backup.keep()
    tensors[0].fill_(6)
    backup.restore()
    assert tensors[0].tolist() == [5, 5, 5]
    assert [tensor.data_ptr() for tensor in tensors] == places


def test_backup_of_nothing():
    Backup([]).restore()
