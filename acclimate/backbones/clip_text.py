"""CLIP's text encoder, from vectors of tokens on."""

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from acclimate.errors import InputError


class TextEncoder(nn.Module):
    """CLIP's text encoder, from vectors of tokens on, so that some of them may be others.

    Tokens look only back, so that what follows the end of a text may be left out.

    Args:
        clip: A model of open_clip, or its text tower; its layers are shared.

    Raises:
        InputError: the text encoder is of another kind.
    """

    mask: Tensor

    def __init__(self, clip: nn.Module):
        super().__init__()
        tower: Any = getattr(clip, "text", clip)
        pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
        mask = getattr(tower, "attn_mask", None)
        other = getattr(tower, "cls_emb", None) is not None
        if pool != "argmax" or mask is None or other or tower.text_projection is None:
            raise InputError(
                "this model's text encoder is not CLIP's: its tokens must look only back, and the "
                "last one's features be taken; choose a model such as openclip:ViT-B-32."
            )
        self.token_embedding: Any = tower.token_embedding
        self.positional_embedding: Any = tower.positional_embedding
        self.transformer: Any = tower.transformer
        self.ln_final: Any = tower.ln_final
        self.text_projection: Any = tower.text_projection
        self.positions: int = len(tower.positional_embedding)
        self.register_buffer("mask", mask, persistent=False)

    def embed(self, tokens: Int64[Tensor, "texts length"]) -> Float[Tensor, "texts length width"]:
        """The vectors of tokens."""
        return self.token_embedding(tokens)

    def forward(
        self,
        embedded: Float[Tensor, "texts length width"],
        tokens: Int64[Tensor, "texts length"],
    ) -> Float[Tensor, "texts dim"]:
        """Features of texts from the vectors of their tokens."""
        length = embedded.shape[1]
        x = embedded + self.positional_embedding[:length]
        x = self.transformer(x, attn_mask=self.mask[:length, :length])
        ends = tokens.argmax(1)[:, None, None].expand(-1, 1, x.shape[2])
        x = self.ln_final(x.gather(1, ends).squeeze(1))  # [texts, width]
        projection = self.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection
