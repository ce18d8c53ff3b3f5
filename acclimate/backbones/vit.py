"""A small vision transformer for images of any size, built on timm's."""

import torch
from torch import nn

from acclimate.backbones.classifier import Classifier
from acclimate.errors import InputError

HEAD_WIDTH = 64  # channels of an attention head in all ViT sizes (Dosovitskiy et al. 2021)
GRID = 8  # patches per side of the learned positions: 32 pixels in patches of 4

FEW = 128  # tokens up to which attention without the fused kernel is faster on a CPU


def vit(depth: int, width: int, patch: int, *, classes: int) -> Classifier:
    """A ViT (Dosovitskiy et al. 2021) with mean pooling and random weights.

    There is no class token (Beyer et al. 2022): every token is a patch, and the features are the
    normalised mean of the tokens. There is one attention head per 64 channels, and at least one.
    Position embeddings are learned for 8 x 8 patches and interpolated for other sizes, so height
    and width may be any multiples of the patch size.

    ```python
    logits = vit(6, 192, 4, classes=10)(images)  # [batch, 10], for images of 32 x 32 pixels
    ```

    Args:
        depth: Number of blocks.
        width: Channels of a token: a multiple of 64, or of 8 below 64.
        patch: Height and width of a patch, in pixels.
        classes: Outputs of the head.

    Raises:
        InputError: the depth, the width or the patch size is out of range.
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
    """Without a GPU, switch off the fused kernel in timm's attention layers for few tokens.

    On a CPU in bf16, forward and backward passes of a layer with torch's fused kernel take twice
    as long for 17 and 65 tokens (`benchmarks/attention.py`). For many tokens, plain matrix
    products need too much memory.

    ```python
    attend_plainly(network, tokens=64)
    ```

    Args:
        module: Changed in place.
        tokens: The sequence length.
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
