"""What a network takes, found out without being told."""

import pytest
import timm
import torch
from torch import nn

from acclimate.backbones import split
from acclimate.backbones.trace import input_channels


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 13])
def test_the_first_convolution_says_how_many_channels_images_have(channels):
    network = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    assert input_channels(network) == channels
    assert input_channels(nn.Linear(3, 2)) == 3


def test_a_stem_that_rearranges_pixels_has_images_of_three_channels():
    """TResNet's first convolution takes 48 channels, each of 16 pixels' three."""
    network = timm.create_model("tresnet_m", num_classes=4).eval()
    images = torch.rand(2, 3, 32, 32)
    assert input_channels(network) == 3
    assert torch.equal(split(network)(images), network(images))
