"""An adapter that remembers, over a stream whose shift changes, with a way back.

Run: python examples/stream.py [--quick] [--bundle quickstart/bundle] [--learning-rate 1e-5]
Without a bundle a small one is trained first. An absurd learning rate shows the fallback.
"""

import argparse
from dataclasses import replace

import acclimate
from acclimate.data import Shift, load, streams, subset
from acclimate.methods import METHODS
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs

SHIFTS = [Shift("none", 0), Shift("contrast", 5), Shift("gaussian_noise", 5), Shift("none", 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds, and poor accuracy")
    parser.add_argument("--bundle", help="of fashion-mnist-mini, as acclimate quickstart makes it")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    given = parser.parse_args()

    test = subset(load("fashion-mnist-mini", "test"), 64 if given.quick else 512)
    if given.bundle:
        bundle = acclimate.Bundle.load(given.bundle)
    else:
        source = subset(load("fashion-mnist-mini", "train"), 256 if given.quick else 2500)
        settings = with_epochs(PRESETS["small"], 1 if given.quick else 5)
        bundle = acclimate.train("cta", "acclimate:resnet8", source, settings, Run())

    settings = replace(METHODS["cta"].settings, reset="never", learning_rate=given.learning_rate)
    adapter = acclimate.Adapter(bundle, "cta", settings)
    frozen = acclimate.Adapter(bundle, "source")
    good = adapter.snapshot()
    fallbacks, scores = 0, []
    # Every image once under each shift. The labels stay here, for the score alone.
    for batch in streams.continual(test.images, SHIFTS, batch=32 if given.quick else 64):
        images, shift = batch.images, batch.shifts[0].corruption
        logits = adapter(images)
        if adapter.refused > good.refused:
            # Something was not finite: answer as without adapting, keep what was learned before.
            logits = frozen(images)
            adapter.restore(good)
            fallbacks += 1
        else:
            good = adapter.snapshot()
        right = (logits.argmax(1) == test.labels[batch.numbers]).float().mean().item()
        scores.append(right)
        changed = (logits.argmax(1) != frozen(images).argmax(1)).float().mean().item()
        print(f"{shift:<16}{100 * right:5.1f} % right, {100 * changed:5.1f} % changed by adapting")
    print(f"mean {100 * sum(scores) / len(scores):.1f} % right, {fallbacks} fallbacks")


if __name__ == "__main__":
    main()
