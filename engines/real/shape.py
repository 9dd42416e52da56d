"""The decoder's sizes, apart from torch: plans need them where torch is not loaded."""

import msgspec


class DecoderShape(msgspec.Struct, frozen=True):
    """Sizes of the decoder; `latent + rope` float32 values a token and layer are its KV."""

    layers: int = 4
    d_model: int = 128
    heads: int = 4
    latent: int = 64
    rope: int = 16
    hidden: int = 256
    vocabulary: int = 512
    seed: int = 0

    @property
    def kv_width(self) -> int:
        """float32 values of one token's KV at one layer."""
        return self.latent + self.rope
