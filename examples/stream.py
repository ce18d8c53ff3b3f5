"""An adapter without reset on a stream whose shift changes, with a fallback after failed steps.

Run: python examples/stream.py [--quick] [--bundle quickstart/bundle] [--learning-rate 1e-5]
Without --bundle, a small one is trained first. A very large learning rate triggers the fallback.
"""

import argparse

import acclimate
from acclimate.data import Shift, load, streams, subset
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs

SHIFTS = [Shift("none", 0), Shift("contrast", 5), Shift("gaussian_noise", 5), Shift("none", 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    parser.add_argument(
        "--bundle", help="bundle for fashion-mnist-mini, such as that of acclimate quickstart"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    options = parser.parse_args()

    test = subset(load("fashion-mnist-mini", "test"), 64 if options.quick else 512)
    if options.bundle:
        bundle = acclimate.Bundle.load(options.bundle)
    else:
        source = subset(load("fashion-mnist-mini", "train"), 256 if options.quick else 2500)
        settings = with_epochs(PRESETS["small"], 1 if options.quick else 5)
        bundle = acclimate.train("cta", "acclimate:resnet8", source, settings, Run())

    update = {"learning_rate": options.learning_rate}
    adapter = acclimate.Adapter(bundle, "cta", reset="never", update=update)
    frozen = acclimate.Adapter(bundle, "source")
    good = adapter.snapshot()
    fallbacks, accuracies = 0, []
    # Every image once under each shift. Labels are used only to compute the accuracy.
    for batch in streams.continual(test.images, SHIFTS, batch=32 if options.quick else 64):
        images, shift = batch.images, batch.shifts[0].corruption
        before = adapter.refused
        logits = adapter(images)
        if adapter.refused > before:
            # A step or an answer was not finite: answer with the frozen model, restore the state.
            logits = frozen(images)
            adapter.restore(good)
            fallbacks += 1
        else:
            good = adapter.snapshot()
        correct = 100 * (logits.argmax(1) == test.labels[batch.numbers]).float().mean().item()
        accuracies.append(correct)
        changed = 100 * (logits.argmax(1) != frozen(images).argmax(1)).float().mean().item()
        print(f"{shift:<16}{correct:5.1f} % correct, {changed:5.1f} % changed by adapting")
    print(f"mean {sum(accuracies) / len(accuracies):.1f} % correct, {fallbacks} fallbacks")


if __name__ == "__main__":
    main()
