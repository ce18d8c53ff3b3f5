"""Methods of zero-shot classifiers, which tell classes by their names: CLIP and its kin."""

from acclimate.methods.method import Method
from acclimate.methods.settings import AdapterSettings
from acclimate.objectives import ConfidentViewsOptions, LikelyClassesOptions, TemplateTurnsOptions
from acclimate.parts.rounds import AverageOfTurns
from acclimate.parts.update import Adam, AdamW

TPT = (
    "Shu et al. 2022, Test-time prompt tuning for zero-shot generalization in vision-language "
    "models"
)
CLIPARTT = "Hakim et al. 2024, CLIPArTT: Adaptation of CLIP to new domains at test time"
WATT = "Osowiechi et al. 2024, WATT: Weight average test-time adaptation of CLIP"

VISION_LANGUAGE: dict[str, Method] = {
    "tpt": Method(
        "make an image's most certain views certain together, by the words of the prompts",
        TPT,
        "supervised",
        AdapterSettings(
            steps=1,
            objective=ConfidentViewsOptions(),
            update=AdamW(5e-3, parameters="none", head=True),
            one_by_one=True,
        ),
        zero_shot=True,
    ),
    "clipartt": Method(
        "learn from the similarities of images and of prompts that name their likely classes",
        CLIPARTT,
        "supervised",
        AdapterSettings(
            steps=10,
            objective=LikelyClassesOptions(),
            update=Adam(1e-3, parameters="norm"),
        ),
        zero_shot=True,
    ),
    "watt-p": Method(
        "as clipartt with one template after another, each from the same weights; then their mean",
        WATT,
        "supervised",
        AdapterSettings(
            steps=800,
            objective=TemplateTurnsOptions(),
            update=Adam(1e-4, parameters="norm"),
            aftermath=(AverageOfTurns(parallel=True),),
        ),
        zero_shot=True,
    ),
    "watt-s": Method(
        "as clipartt with one template after another; then the mean of the weights at their ends",
        WATT,
        "supervised",
        AdapterSettings(
            steps=80,
            objective=TemplateTurnsOptions(),
            update=Adam(1e-3, parameters="norm"),
            aftermath=(AverageOfTurns(),),
        ),
        zero_shot=True,
    ),
}
