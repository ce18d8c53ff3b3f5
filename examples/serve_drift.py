"""Three cameras drift away from the training data, each in its own way, and share one service.

Run: python examples/serve_drift.py [--quick] [--bundle quickstart/bundle] [--port 8000] [--keep]
It starts acclimate serve (pip install 'acclimate[serve,client]'), sends each camera's images as a
stream, and compares the answers with and without adaptation. Open the address that it prints: the
page shows the streams meanwhile. --keep leaves the service running until Ctrl-C. Without --bundle,
a small one is trained first. A bundle without a guard is given one. --class-shares as-source tells
the guard that all classes are about as frequent as in training, which is so here.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import acclimate
from acclimate.data import load, subset
from acclimate.data.corruptions import corrupt
from acclimate.guard import measure_guard
from acclimate.serve.client import Client
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs

CAMERAS = {"north": "fog", "east": "contrast", "south": "gaussian_noise"}
SEVERITIES = (0, 1, 2, 3, 4, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run in seconds, with poor accuracy")
    parser.add_argument("--bundle", type=Path, help="a bundle for fashion-mnist-mini")
    parser.add_argument("--port", type=int, default=0, help="port of the service; 0: a free one")
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    parser.add_argument("--class-shares", choices=("any", "as-source"), default="any")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "acclimate", "serve", guarded(options, Path(folder))]
        command += ["--port", str(options.port), "--batch", "32"]
        command += ["--class-shares", options.class_shares]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                address = service.stdout.readline().split(" on ")[1].split()[0]
                print(f"the live page is at {address}", flush=True)
                drift(address, 32 if options.quick else 192)
                if options.keep:
                    service.wait()
            except KeyboardInterrupt:
                pass
            finally:
                service.terminate()


def drift(address: str, count: int) -> None:
    """Send each camera's images at growing severities, in turn, and print who was right."""
    test = subset(load("fashion-mnist-mini", "test"), count)
    right = defaultdict(list)
    print(f"{'':8}{'corruption':16}{'severity':>8}{'frozen':>10}{'adapted':>10}{'given':>10}")
    with Client(address) as client:
        for severity in SEVERITIES:
            for start in range(0, count, 32):
                labels = test.labels[start : start + 32].tolist()
                for camera, name in CAMERAS.items():
                    images = test.images[start : start + 32]
                    if severity:
                        images = corrupt(images, name, severity, first_index=start)
                    answers = client.predict(camera, images)["answers"]
                    for answer, label in zip(answers, labels):  # labels only measure
                        three = (answer["frozen"], answer["adapted"], answer)
                        hits = [each["index"] == label for each in three]
                        right[camera, severity].append(hits)
            for camera, name in CAMERAS.items():
                show(camera, name, severity, right[camera, severity])
        for camera, name in CAMERAS.items():
            show(camera, name, "all", [hit for s in SEVERITIES for hit in right[camera, s]])
            state = client.status(camera)
            if estimate := state["estimate"]:
                value, low, high = (100 * estimate["guarded"][k] for k in ("value", "low", "high"))
                print(
                    f"{'':8}estimated without labels, now: {value:.0f} % ({low:.0f} to {high:.0f})"
                )


def show(camera: str, corruption: str, severity: object, hits: list[list[bool]]) -> None:
    frozen, adapted, given = (100 * sum(column) / len(hits) for column in zip(*hits))
    line = f"{frozen:9.1f}%{adapted:9.1f}%{given:9.1f}%"
    print(f"{camera:8}{corruption:16}{severity!s:>8}{line}", flush=True)


def guarded(options: argparse.Namespace, folder: Path) -> Path:
    """Folder of a bundle with a guard."""
    source = subset(load("fashion-mnist-mini", "train"), 256 if options.quick else 2500)
    if options.bundle:
        bundle = acclimate.Bundle.load(options.bundle)
        if any(".guard." in name for name in bundle.statistics):
            return options.bundle
    else:
        settings = with_epochs(PRESETS["small"], 1 if options.quick else 5)
        bundle = acclimate.train("cta", "acclimate:resnet8", source, settings, Run())
    measure_guard(bundle, source.images).save(folder / "bundle")
    return folder / "bundle"


if __name__ == "__main__":
    main()
