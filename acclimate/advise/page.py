"""The page that shows advice: one HTML file that needs nothing beside it."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from acclimate.advise.advice import Advice
from acclimate.advise.labelled import Labelled
from acclimate.advise.words import COLUMNS, rows, verdict_of


def page_of(advice: Advice, bundle: str, labelled: Labelled | None = None) -> str:
    """The page's HTML.

    Args:
        advice: The advice.
        bundle: Name of the bundle.
        labelled: What labels say; shown beside, as such.
    """
    environment = Environment(
        loader=PackageLoader("acclimate.advise", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(
        bundle=bundle,
        verdict=verdict_of(advice),
        columns=[*COLUMNS, *(["by labels"] if labelled else [])],
        rows=rows(advice, labelled),
        labelled=labelled,
    )
