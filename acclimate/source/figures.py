"""What was measured on source images when a bundle was made, in words."""

from collections.abc import Mapping

from acclimate.backbones.batch_norm import Trust

_WHO = ("frozen", "classifier", "twin")


def in_words(trust: Mapping[str, Trust], agreement: Mapping[str, float], images: str) -> str:
    """The figures of `acclimate.source.stages.measure` in one sentence.

    ```python
    print(in_words(bundle.trust, bundle.provenance["agreement"], "held-out images"))
    ```

    Args:
        trust: How far each model's batch statistics are trusted.
        agreement: The agreement of each model with the frozen classifier.
        images: What it was measured on.
    """
    if not agreement:
        return "nothing was measured, for there are fewer than 16 images, or they are not RGB"
    clean, shifted = (
        ", ".join(
            f"{who} {agreement[f'{who}, {kind}']:.3f}"
            for who in _WHO
            if f"{who}, {kind}" in agreement
        )
        for kind in ("clean", "shifted")
    )
    told = [
        f"agreement with the frozen classifier on {images}, with batch statistics: clean {clean}; "
        f"corrupted {shifted}",
        *(
            f"a batch's statistics count at most {each.limit:.0%} in the {model}, with a prior of "
            f"{each.prior:g} images"
            for model, each in trust.items()
        ),
    ]
    if "kept" in agreement:
        told.append(f"{agreement['kept']:.0%} of the alignment kept")
    return "; ".join(told)
