"""FOA as an adapter: against a plain loop, and that its state is its whole future."""

import copy

import pytest
import torch

import acclimate
from acclimate.adapt import Adapter
from acclimate.backbones import build, split
from acclimate.backbones.prompts import add_prompts
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.objectives.discrepancy import Tokens, discrepancy
from acclimate.objectives.entropy import entropies
from acclimate.parts.search import Search

EXACT = {"device": "cpu", "precision": "fp32"}
FEW = {"update.population": 6}


def by_a_plain_loop(bundle, batches, population):
    """FOA, a candidate at a time, written out."""
    moments = {
        name.removeprefix("classifier.moments."): tensor
        for name, tensor in bundle.statistics.items()
        if ".moments." in name
    }
    layers = range(len(moments) // 2)
    means, deviations = ([moments[f"{kind}.{n}"] for n in layers] for kind in ("mean", "std"))
    model = copy.deepcopy(bundle.classifier)
    tokens = Tokens(model, bundle.preprocessing.size)
    given = bundle.preprocessing(batches[0])
    prompts = add_prompts(model.encoder, tokens.blocks, 3, given)
    search, history, answers = Search(prompts, population, 1.0, 0), None, []
    for images in batches:
        given = bundle.preprocessing(images)
        strategy, candidates = search.ask()
        fitness = []
        for candidate in candidates:
            prompts.copy_(candidate)
            activations = tokens.activations(model, given)
            entropy = entropies(model.head(activations[-1])).sum()
            distance = discrepancy(activations, means, deviations)
            fitness.append(entropy + 0.4 * len(images) / 64 * distance)
        search.tell(strategy, candidates, torch.stack(fitness) / len(images))
        features = model.encoder(given)
        shift = 0 if history is None else means[-1] - history
        answers.append(model.head(features + shift))
        mean = features.mean(0)
        history = mean if history is None else 0.9 * history + 0.1 * mean
    return torch.cat(answers)


def test_foa_is_a_plain_loop(bundle_of, images):
    bundle = bundle_of("foa")
    batches = images[:48].split(16)
    adapter = Adapter(bundle, "foa", **FEW, **EXACT)
    with torch.no_grad():
        expected = by_a_plain_loop(bundle, batches, 6)
    found = torch.cat([adapter(batch) for batch in batches])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    still = Adapter(bundle, "foa", steps=0, **EXACT)
    assert not torch.allclose(torch.cat([still(batch) for batch in batches]), expected, atol=1e-3)


def test_a_step_is_never_worse_than_the_prompts_before_it(bundle_of, images):
    """On the same batch: the best of the last step is a candidate."""
    adapter = Adapter(bundle_of("foa"), "foa", **FEW, **EXACT)
    losses = []
    for _ in range(6):
        adapter(images[:24])
        losses.append(adapter.steps[0].loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_its_state_is_its_whole_future(bundle_of, images, tmp_path):
    """Mean, covariance, step size, paths, generation, prompts and running mean: to the bit."""
    bundle = bundle_of("foa")
    adapter = Adapter(bundle, "foa", **FEW, **EXACT)
    adapter(images[:16]), adapter(images[16:32])
    adapter.save(tmp_path / "state.safetensors")
    state = adapter.snapshot()
    future = [adapter(batch) for batch in images[32:80].split(16)]
    adapter.restore(state)
    assert all(map(torch.equal, future, map(adapter, images[32:80].split(16))))
    other = Adapter(bundle, "foa", **FEW, **EXACT)
    other.load(tmp_path / "state.safetensors")
    assert all(map(torch.equal, future, map(other, images[32:80].split(16))))
    other.reset()
    new = Adapter(bundle, "foa", **FEW, **EXACT)
    assert all(map(torch.equal, map(new, images.split(40)), map(other, images.split(40))))


def test_no_weight_moves_and_no_gradient_is_computed(bundle_of, images):
    bundle = bundle_of("foa")
    adapter = Adapter(bundle, "foa", **FEW, **EXACT)
    learner = adapter._learner
    assert [name.split(".")[-1] for name in learner.moving] == ["prompts"]
    handle = learner.model.encoder.get_submodule("blocks.0").register_forward_hook(
        lambda module, inputs, output: seen.append(output.requires_grad)
    )
    seen = []
    adapter(images[:16])
    handle.remove()
    assert len(seen) == 6 + 1 and not any(seen)  # the candidates, and the answer
    own = {
        name.replace(".block.", "."): tensor
        for name, tensor in learner.model.state_dict().items()
        if not name.endswith(".prompts")
    }
    source = bundle.classifier.state_dict()
    assert own.keys() == source.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in source.items())


def test_one_image_is_answered_without_a_step(bundle_of, images):
    """It has no standard deviation."""
    adapter = Adapter(bundle_of("foa"), "foa", **FEW, **EXACT)
    frozen = Adapter(bundle_of("foa"), "source", **EXACT)(images[:1])
    assert adapter.steps == [] and adapter(images[:1]).isfinite().all()
    assert adapter.steps[0].reason == "too few images for a step"
    still = Adapter(bundle_of("foa"), "foa", steps=0, correction="none", **EXACT)
    torch.testing.assert_close(still(images[:1]), frozen)


def test_a_step_without_a_finite_candidate_changes_nothing(bundle_of, images):
    adapter = Adapter(bundle_of("foa"), "foa", **FEW, **EXACT)
    before = adapter.snapshot().tensors
    learner = adapter._learner
    forward = learner.objective.forward
    learner.objective.forward = lambda *given: forward(*given)._replace(
        losses=torch.full((16,), torch.nan)
    )
    adapter(images[:16])
    assert adapter.refused == 1 and adapter.steps[0].reason == "the loss was not finite"
    after = adapter.snapshot().tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"correction.mean", "counts", "seen"}


def test_an_error_in_a_step_leaves_the_prompts(bundle_of, images):
    adapter = Adapter(bundle_of("foa"), "foa", **FEW, **EXACT)
    adapter(images[:16])
    before = adapter.snapshot().tensors

    def fail(*given):
        raise RuntimeError("no memory left")

    adapter._learner.objective.forward = fail
    with pytest.raises(RuntimeError, match="no memory left"):
        adapter(images[:16])
    after = adapter.snapshot().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_search_serves_other_objectives(bundle_of, images):
    """TENT's entropy, by prompts instead of norms."""
    changes = {"update": "cma-es", "update.population": 6, "normalisation": "source"}
    adapter = Adapter(bundle_of("foa"), "tent", **changes, **EXACT)
    assert adapter(images[:16]).isfinite().all() and bool(adapter.steps[0].taken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aftermath": "pull"}, "cma-es computes no gradients and moves no weights"),
        ({"penalty": "fisher"}, "cma-es computes no gradients and moves no weights"),
    ],
)
def test_what_needs_gradients_is_refused(bundle_of, changes, message):
    with pytest.raises(InputError, match=message):
        Adapter(bundle_of("foa"), "foa", **changes, **EXACT)


def test_a_convolutional_network_is_refused(bundle):
    with pytest.raises(InputError, match="foa gives prompts to a vision transformer's blocks"):
        Adapter(bundle, "foa", **EXACT)


def test_without_moments_it_says_what_to_do(images):
    network = split(build("acclimate:vit2-w32-p4", classes=4)).eval()
    preprocessing = acclimate.preprocessing.Preprocessing(16)
    wrapped = acclimate.wrap(network, preprocessing=preprocessing, classes=list("abcd"))
    with pytest.raises(InputError, match=r"needs statistics of source images \(moments\)"):
        Adapter(wrapped, "foa", **EXACT)
    measured = acclimate.measure(wrapped, images[:20])
    assert Adapter(measured, "foa", **FEW, **EXACT)(images[:16]).isfinite().all()


def test_the_published_settings():
    settings = METHODS["foa"].settings
    assert (settings.objective.weight, settings.correction.strength) == (0.4, 1.0)
    update = settings.update
    assert (update.prompts, update.population, update.spread) == (3, 28, 1.0)
