import pytest
import torch

from acclimate.backbones.siamese import siamese
from acclimate.objectives.clustering import Clustering
from acclimate.objectives.flow import Flow
from acclimate.objectives.noise_contrastive import NoiseContrastive
from acclimate.objectives.reconstruction import Reconstruction
from acclimate.views import shifted_crop


@pytest.mark.parametrize("kind", [Clustering, Flow, NoiseContrastive, Reconstruction])
def test_crops_before_deployment_and_whole_images_at_it(kind, bundle, images):
    model = siamese(bundle.classifier) if kind is Reconstruction else bundle.classifier
    objective = kind(model, bundle.preprocessing, padding=2)
    unit, index = bundle.preprocessing.unit(images[:4]), torch.arange(4)
    views, *_ = objective.source_draw(unit, 5, index)
    assert torch.equal(views, shifted_crop(unit, 2, key=5, index=index))
    (views,) = objective.draw(unit, 5, index)
    assert torch.equal(views, unit)
