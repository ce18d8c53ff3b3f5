"""The verbs of the command line, a file each: dataclasses whose fields are their flags."""

from acclimate.commands.adapt import Adapt
from acclimate.commands.align import Align
from acclimate.commands.analyse import Analyse
from acclimate.commands.bench import Bench
from acclimate.commands.corrupt import Corrupt
from acclimate.commands.info import Info
from acclimate.commands.methods import Methods
from acclimate.commands.quickstart import Quickstart
from acclimate.commands.report import Report
from acclimate.commands.train import Train
from acclimate.commands.wrap import Wrap

__all__ = ["VERBS", "Adapt", "Align", "Train"]

VERBS = {
    "quickstart": Quickstart,
    "train": Train,
    "align": Align,
    "wrap": Wrap,
    "adapt": Adapt,
    "corrupt": Corrupt,
    "bench": Bench,
    "report": Report,
    "analyse": Analyse,
    "info": Info,
    "methods": Methods,
}
