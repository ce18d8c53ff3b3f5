"""A small vision transformer for images of any size, from timm's parts."""

import torch
from torch import nn

from acclimate.backbones.classifier import Classifier
from acclimate.errors import InputError

HEAD_WIDTH = 64  # channels of an attention head in every size of ViT (Dosovitskiy et al. 2021)
GRID = 8  # patches along a side that the positions are made for: images of 32 in patches of 4

FEW = 128  # tokens


def vit(depth: int, width: int, patch: int, *, classes: int) -> Classifier:
    """A ViT (Dosovitskiy et al. 2021) that averages its tokens, with random weights.

    Every token is a patch: the features are the mean of the tokens, normed, and there is no token
    for the class (Beyer et al. 2022), so that a block's output is a map of the image alone. One
    head of attention for every 64 channels, one in all for fewer. The positions are learned for
    8 x 8 patches and interpolated for any other number, so that height and width may be any
    multiples of the patch.

    Args:
        depth: Blocks of attention and MLP.
        width: Channels of a token: a multiple of 64, or of 8 below that.
        patch: Height and width of a patch in pixels.
        classes: Outputs of the head.

    Raises:
        InputError: a depth, width or patch that cannot be built.
    """
    _check(depth, width, patch)
    from timm.models.vision_transformer import VisionTransformer

    encoder = VisionTransformer(
        img_size=GRID * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=max(1, width // HEAD_WIDTH),
        num_classes=classes,
        class_token=False,
        global_pool="avg",
        dynamic_img_size=True,
    )
    attend_plainly(encoder, GRID**2)
    head = encoder.head
    encoder.head = nn.Identity()
    assert isinstance(head, nn.Linear)
    return Classifier(encoder, head)


def attend_plainly(module: nn.Module, tokens: int) -> None:
    """Where there is no GPU, let timm's attention on few tokens do without a fused kernel.

    Forward and backward in bf16 on a CPU, a layer with torch's fused one takes twice as long for 17
    and 65 tokens (`benchmarks/attention.py`). For many, plain products need too much memory.
    """
    if tokens <= FEW and not torch.cuda.is_available():
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # type: ignore[assignment]


def _check(depth: int, width: int, patch: int) -> None:
    if not 1 <= depth <= 64:
        raise InputError(f"the depth of a ViT is 1 to 64 blocks, not {depth}.")
    step = HEAD_WIDTH if width > HEAD_WIDTH else 8
    if not 8 <= width <= 2048 or width % step:
        raise InputError(
            f"the width of a ViT is a multiple of 64 up to 2048, or of 8 below 64, not {width}."
        )
    if not 1 <= patch <= 64:
        raise InputError(f"the patch of a ViT is 1 to 64 pixels wide, not {patch}.")
