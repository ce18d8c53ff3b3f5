import pytest
import torch
from golden_values import assert_golden, golden
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize

from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.objectives.entropy import entropies
from acclimate.parts.answer import Prediction
from acclimate.parts.supports import Supports, SupportSet

CPU = torch.device("cpu")


def linear(weight, bias=None):
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head.requires_grad_(False)


def released_head():
    return linear(golden("t3a_head_weight"), golden("t3a_head_bias"))


def answer(part, head, features):
    return part(Prediction(head(features), features))


def stored(part):
    """The supports as the release lists them: class by class, entropies rising."""
    there = part.entropies.isfinite()
    labels = torch.arange(len(there))[:, None].expand_as(there)
    return part.features[there], labels[there], part.entropies[there]


@pytest.mark.parametrize("capacity", [3, 100])
def test_it_is_the_release(capacity):
    head = released_head()
    part = SupportSet(head, capacity)
    if capacity == 100:
        first, labels, found = stored(part)
        order = golden("t3a_initial_labels").argsort(stable=True)
        assert torch.equal(labels, golden("t3a_initial_labels")[order])
        assert torch.equal(head(head.weight).argmax(1), golden("t3a_initial_labels"))
        torch.testing.assert_close(first.norm(dim=1), torch.ones(5).double())
        initial = golden("t3a_initial_entropies").sort().values
        torch.testing.assert_close(found.sort().values, initial)
    for t, features in enumerate(golden("t3a_features"), 1):
        assert_golden(answer(part, head, features), f"t3a_k{capacity}_output_{t}", rtol=1e-6)
        counts = part.entropies.isfinite().sum(1)
        assert torch.equal(counts, golden(f"t3a_k{capacity}_support_counts_{t}"))
    if capacity == 3:
        features, labels, found = stored(part)
        torch.testing.assert_close(features, normalize(golden("t3a_k3_supports"), dim=1))
        assert torch.equal(labels, golden("t3a_k3_support_labels"))
        assert_golden(found, "t3a_k3_support_entropies")


def slow(head, batches, capacity, *, drops_worst=False):
    """Supports in lists, image by image; with the release's fault where all are to be kept."""
    kept = [(int(head(w).argmax()), entropies(head(w)[None]).item(), w) for w in head.weight]
    outputs, counts = [], []
    for batch in batches:
        for z in batch:
            kept.append((int(head(z).argmax()), entropies(head(z)[None]).item(), z))
        chosen = []
        for label in range(head.out_features):
            own = sorted((s for s in kept if s[0] == label), key=lambda s: s[1])
            chosen += own[:-1] if drops_worst else own[:capacity]
        kept = chosen
        rows = []
        for label in range(head.out_features):
            own = [s[2] / s[2].norm() for s in kept if s[0] == label]
            centre = sum(own) if own else torch.zeros(head.in_features, dtype=head.weight.dtype)
            rows.append(centre / centre.norm().clamp_min(1e-12))
        outputs.append(torch.stack([torch.stack([z @ row for row in rows]) for z in batch]))
        counts.append([sum(s[0] == label for s in kept) for label in range(head.out_features)])
    return outputs, counts


@pytest.mark.parametrize("capacity", [1, 2, 5, 50])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_plain_loop_on_other_inputs(capacity, biased):
    generator = torch.Generator().manual_seed(capacity)
    weight, bias, features = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((6, 4), (6,), (5, 9, 4))
    )
    head = linear(weight, bias if biased else None)
    part = SupportSet(head, capacity)
    outputs, counts = slow(head, features, capacity)
    for batch, output, count in zip(features, outputs, counts):
        torch.testing.assert_close(answer(part, head, batch), output, rtol=1e-9, atol=1e-12)
        assert part.entropies.isfinite().sum(1).tolist() == count


def test_the_release_s_all_drops_a_support_of_each_class_at_every_call():
    """Why there is no capacity of -1: a capacity that is never reached keeps all."""
    head, batches = released_head(), golden("t3a_features")
    outputs, counts = slow(head, batches, 0, drops_worst=True)
    all_kept = SupportSet(head, 100)
    for t, batch in enumerate(batches, 1):
        assert_golden(outputs[t - 1], f"t3a_all_as_released_output_{t}", rtol=1e-6)
        expected = golden(f"t3a_all_as_released_support_counts_{t}").tolist()
        assert counts[t - 1] == expected
        answer(all_kept, head, batch)
    assert int(all_kept.entropies.isfinite().sum()) == 5 + batches.shape[0] * batches.shape[1]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 7), st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_kept_does_not_depend_on_the_batch_size(capacity, size, dtype):
    generator = torch.Generator().manual_seed(7)
    head = linear(torch.randn(3, 4, generator=generator))
    features = torch.randn(21, 4, generator=generator).to(dtype)
    whole, parted = SupportSet(head, capacity), SupportSet(head, capacity)
    found = whole(Prediction(head(features.float()), features))
    assert found.dtype == torch.float32 and found.isfinite().all()
    for batch in features.split(size):
        parted(Prediction(head(batch.float()), batch))
    assert torch.equal(whole.entropies.sort(1).values, whole.entropies)
    torch.testing.assert_close(parted.entropies, whole.entropies)
    torch.testing.assert_close(parted.features, whole.features)


@pytest.mark.parametrize("count", [1, 9])
def test_one_image_and_identical_images_are_finite(count):
    head = linear(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    part = SupportSet(head, 5)
    for features in (torch.ones(count, 4), torch.zeros(count, 4)):
        assert answer(part, head, features).isfinite().all()
        assert part.features.isfinite().all()


def test_a_class_without_a_support_has_a_logit_of_zero():
    head = linear(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))  # class 0 is never predicted
    found = answer(SupportSet(head, 5), head, torch.tensor([[1.0, 0.5]]))
    assert found[0, 0] == 0 and found[0, 1] > 0


def test_images_that_are_not_finite_do_not_stay():
    head = linear(torch.eye(3))
    part = SupportSet(head, 2)
    answer(part, head, torch.full((4, 3), torch.nan))
    assert part.features.isfinite().all()


def test_heads_of_another_kind_are_refused():
    model = Classifier(nn.Identity(), nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    with pytest.raises(InputError, match="starts from the weights of a linear head"):
        Supports().build(model, CPU)


@pytest.mark.parametrize("capacity", [0, -1, 10**6])
def test_capacities_that_cannot_be_meant_are_refused(capacity):
    with pytest.raises(InputError, match="capacity must be 1 to"):
        Supports(capacity).check()
