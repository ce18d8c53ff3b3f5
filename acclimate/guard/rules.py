"""The rules of a guard: thresholds of its decisions, what the user knows, and a budget."""

from dataclasses import dataclass
from typing import Literal, get_args

from acclimate.errors import InputError, unknown_name

AtChange = Literal["go-on", "restart", "come-back"]
ClassShares = Literal["any", "as-source"]


@dataclass(frozen=True)
class Rules:
    """Thresholds of the decision. The share is that of `acclimate.guard.decide.Verdict.share`."""

    frozen_below: float = 0.45
    """Below this share all answers are the frozen classifier's."""
    adapted_above: float = 0.65
    """Above this share all answers are the adapted model's; between the two, each image has the
    answer that is more probably right."""
    margin: float = 0.2
    """Between the two, an image gets the adapted answer if its log-odds exceed this."""
    worse_below: float = 0.33
    """Below this share what was learned is rolled back."""
    fewest_classes: float = 0.5
    """An adapted model that answers with less than this share of the frozen classifier's classes
    has collapsed."""
    estimate_half_life: float = 350.0
    """Half-life of the estimates of accuracy, in images."""
    at_change: AtChange = "go-on"
    """What becomes of what was learned when the stream is found to have become another one: it
    stays; ``"restart"`` goes back to the source; ``"come-back"`` does so too, and then takes the
    state back that was learned from images that looked the same, if one of the last four was."""
    class_shares: ClassShares = "any"
    """``"as-source"``: among any 200 images in a row, each class is about as frequent as the models
    find it among the calibration's clean images, and answers that are given more often are mostly
    taken for wrong. ``"any"``: nothing is known."""
    most_steps: int | None = None
    """Budget: after so many steps of a stream nothing more is learned; None sets no limit."""
    most_distance: float | None = None
    """Budget: if the weights that steps move are further from the source's than this share of their
    own length, what was learned is rolled back; None sets no limit."""
    most_changed: float | None = None
    """Budget: if the adapted model would change a larger share of recent answers, the frozen
    classifier answers; None sets no limit."""

    def check(self) -> None:
        """Refuse settings that cannot be meant.

        Raises:
            InputError: shares out of order, a half-life that is not positive, a negative budget,
                or an unknown at_change or class_shares.
        """
        if not 0 <= self.worse_below <= self.frozen_below <= self.adapted_above <= 1:
            raise InputError(
                "the guard's shares must be in the order worse_below, frozen_below, adapted_above, "
                f"from 0 to 1, not {self.worse_below}, {self.frozen_below}, {self.adapted_above}."
            )
        if not self.estimate_half_life > 0:
            raise InputError(
                f"estimate_half_life must be more than 0, not {self.estimate_half_life}."
            )
        if self.at_change not in get_args(AtChange):
            raise unknown_name("at_change", self.at_change, get_args(AtChange))
        if self.class_shares not in get_args(ClassShares):
            raise unknown_name("class_shares", self.class_shares, get_args(ClassShares))
        for name in ("most_steps", "most_distance", "most_changed"):
            if not (getattr(self, name) or 0) >= 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}.")
