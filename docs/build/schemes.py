"""Pictures in two colour schemes: one for pages in light, one for pages in dark."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

SCHEMES = {
    "": ("#222222", "#00796b", "white"),
    "-dark": ("#d5d9e0", "#35c2b0", "none"),
}
"""For each ending of a file's name: the colours of text, of our method, and of the ground."""
WRITING = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "xtick.color",
    "ytick.color",
)


def save(draw: Callable[[str], Figure], path: Path) -> None:
    """Write a picture as ``NAME.png`` and ``NAME-dark.png``.

    ```python
    save(lambda ours: figure_of(results, ours), Path("docs/pictures/stream.png"))
    ```

    Args:
        draw: Makes the figure; given the colour of our method.
        path: Where the light one goes.
    """
    for ending, (text, ours, ground) in SCHEMES.items():
        with pyplot.rc_context(dict.fromkeys(WRITING, text) | {"axes.facecolor": "none"}):
            figure = draw(ours)
            figure.savefig(path.with_stem(path.stem + ending), facecolor=ground)
            pyplot.close(figure)
