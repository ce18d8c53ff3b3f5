"""Every method by its name: how a model adapts at deployment."""

from acclimate.backbones import Classifier, block_names
from acclimate.backbones.batch_norm import batch_norms
from acclimate.backbones.zero_shot import ZeroShotHead
from acclimate.errors import InputError, unknown_name
from acclimate.methods.corrections import CORRECTIONS
from acclimate.methods.cta import TWIN
from acclimate.methods.ensembles import ENSEMBLES
from acclimate.methods.entropy import ENTROPY
from acclimate.methods.forward import FORWARD
from acclimate.methods.memories import MEMORIES
from acclimate.methods.method import Method
from acclimate.methods.ours import OURS
from acclimate.methods.reliable import RELIABLE
from acclimate.methods.single import SINGLE
from acclimate.methods.source_trained import SOURCE_TRAINED
from acclimate.methods.statistics import STATISTICS
from acclimate.methods.teachers import TEACHERS
from acclimate.methods.vision_language import VISION_LANGUAGE
from acclimate.resizing import Side

METHODS: dict[str, Method] = {
    **STATISTICS,
    **ENTROPY,
    **TEACHERS,
    **MEMORIES,
    **RELIABLE,
    **ENSEMBLES,
    **CORRECTIONS,
    **SINGLE,
    **FORWARD,
    **VISION_LANGUAGE,
    **SOURCE_TRAINED,
    **TWIN,
    **OURS,
}
"""Every method by its name."""


def check_model(name: str, model: Classifier, size: Side) -> None:
    """Refuse a model that a method can do nothing with.

    Args:
        name: Of the method.
        model: The model that is to adapt.
        size: Height and width of its images.

    Raises:
        InputError: the method is about batch norm, and the model has none; or it needs a vision
            transformer or a zero-shot classifier.
    """
    if METHODS[name].transformer and not block_names(model.encoder, size):
        raise InputError(
            f"{name} gives prompts to a vision transformer's blocks, and this model has no such "
            f"blocks; choose another method or model."
        )
    if METHODS[name].zero_shot and not isinstance(model.head, ZeroShotHead):
        raise InputError(
            f"{name} compares images with texts, and this classifier has none; make a bundle with "
            f"acclimate zero-shot, or choose another method."
        )
    if METHODS[name].batch_norm and not batch_norms(model.encoder):
        raise InputError(
            f"{name} is about batch norm's statistics, and this model has no batch norm; choose "
            f"another method or model."
        )


def method(name: str) -> Method:
    """The row of a name.

    Raises:
        InputError: there is none; with the nearest names.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
