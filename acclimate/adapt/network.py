"""The adapted model as a plain network, to export it."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from acclimate.adapt.adapter import Adapter
from acclimate.backbones import Classifier
from acclimate.errors import InputError
from acclimate.parts.class_balanced import ClassStatistics
from acclimate.parts.normalisation import AdaptiveBatchNorm, RunningStatistics
from acclimate.preprocessing import Preprocessing, check_images
from acclimate.runtime.precision import undisturbed


class Network(nn.Module):
    """A classifier with the normalisation of its images.

    Args:
        classifier: Takes normalised images.
        preprocessing: Its preprocessing; images must have its size already.
    """

    def __init__(self, classifier: Classifier, preprocessing: Preprocessing):
        super().__init__()
        self.classifier = classifier
        self.preprocessing = preprocessing

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch classes"]:
        """Logits of images in 0..1, not normalised."""
        return self.classifier(self.preprocessing.normalize(images))


def as_network(adapter: Adapter, images: Tensor | None = None) -> Network:
    """A copy of the adapted model as it is now, as a network in float32 on the CPU.

    It answers for each image alone, so batch norm needs fixed statistics. A method that normalises
    by those of the batch takes them from ``images``, as it would answer for them: the network gives
    these images the adapter's own logits, and all others logits by the same statistics. A
    correction by the batch's prior is no part of the network.

    ```python
    network = as_network(adapter, images)
    torch.onnx.export(network, (example,), "adapted.onnx", dynamo=True)
    ```

    Args:
        adapter: Left as it is.
        images: ``[batch, 3, height, width]``, uint8 or floats in 0..1, where statistics come from.

    Raises:
        InputError: the method normalises by statistics of the batch, and there are no images; or
            it corrects answers by the features of other images.
    """
    if adapter.settings.correction.needs_features:
        raise InputError(
            f"{adapter.name} corrects its answers by the features of other images, and a network "
            f"on its own has none; choose another method, or correction none."
        )
    classifier = copy.deepcopy(adapter.model).cpu().float().eval()
    teacher = adapter._learner.teacher
    if adapter.settings.answer.of_teacher and teacher is not None:
        values = {n.removeprefix("model."): t for n, t in teacher.state().items()}
        own = classifier.state_dict()  # its tensors, not copies
        for name in own.keys() & values.keys():
            own[name].copy_(values[name])
    network = Network(classifier, adapter.preprocessing).eval()
    norms = [m for m in classifier.modules() if isinstance(m, AdaptiveBatchNorm)]
    for norm in norms:
        if isinstance(norm.policy, ClassStatistics):  # which are known, whatever images come
            kept = norm.policy.mean, norm.policy.variance
            norm.running_mean, norm.running_var = (tensor.clone().cpu() for tensor in kept)
            norm.policy = RunningStatistics()
    norms = [norm for norm in norms if not isinstance(norm.policy, RunningStatistics)]
    if not norms:
        return network
    if images is None:
        raise InputError(
            f"{adapter.name} normalises by the statistics of the batch, and a network on its own "
            "has none; give the images to take them from."
        )
    check_images(images)
    seen = _Statistics(norms)
    with undisturbed(torch.device("cpu")), seen:
        network(adapter.preprocessing.unit(images.cpu()))
    for norm, (mean, variance) in seen.found.items():
        norm.running_mean, norm.running_var = mean.clone(), variance.clone()
        norm.policy = RunningStatistics()
    return network


class _Statistics(TorchFunctionMode):
    """Within it, the statistics are kept that batch-norm layers normalise by.

    Attributes:
        found: Mean and variance of each layer.
    """

    def __init__(self, norms: list[AdaptiveBatchNorm]):
        super().__init__()
        self.found: dict[AdaptiveBatchNorm, tuple[Tensor, Tensor]] = {}
        self._norm: AdaptiveBatchNorm | None = None
        self._hooks = [norm.register_forward_pre_hook(self._enter) for norm in norms]

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()
        return super().__exit__(*error)

    def _enter(self, norm: Any, inputs: Any) -> None:
        self._norm = norm

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is batch_norm and self._norm is not None:
            self.found[self._norm] = args[1], args[2]
            self._norm = None
        return function(*args, **(kwargs or {}))
