"""What a reader of a table must know: methods that lose where they should not."""

from acclimate.report.comparison import Comparison, Row
from acclimate.report.exports import points

CLEAN_LOSS = 0.01
"""The loss on clean images, a fraction, from which a method is warned of."""
_FEW = 16
"""Images from which on a batch has statistics of some use."""


def warnings_of(table: Comparison, batch: int) -> list[str]:
    """A sentence for each method that loses on clean images, or is worse than the frozen model.

    ```python
    for protocol, cells in by_protocol(measured).items():
        print(warnings_of(compare(cells), protocol.batch))
    ```

    Args:
        table: A table of one protocol.
        batch: Number of images that arrived together.
    """
    found = []
    for row in table.rows:
        small = row.batch_alone and batch < _FEW
        unknown = row.gain is None and row.clean is None
        if not row.variant.control and (_loses(row) or (small and unknown)):
            found.append(_warning(row, batch if small else None))
    return found


def _loses(row: Row) -> bool:
    clean, corrupted = row.clean, row.gain
    return (clean is not None and clean.difference < -CLEAN_LOSS) or (
        corrupted is not None and corrupted.difference < 0
    )


def _warning(row: Row, few: int | None) -> str:
    """The sentence of a method; ``few`` is a batch too small for its statistics."""
    parts = []
    if row.clean is not None:
        parts.append(f"{points(row.clean)} points on clean images")
    if row.gain is not None:
        parts.append(f"{points(row.gain)} points on the mean")
    compared = f"{row.name} against the frozen classifier: {' and '.join(parts)}"
    if few is None:
        return f"{compared}."
    images = "1 image is" if few == 1 else f"{few} images are"
    return (
        f"{compared + ';' if parts else row.name + ':'} {images} too few for statistics of the "
        "batch, if the network has batch norm: give larger batches, or a prior such as "
        f"{row.variant.method}:normalisation.prior=256."
    )
