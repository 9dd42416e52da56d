"""How KV and decoder are cut, apart from numpy and torch: every world weighs tokens alike."""

import msgspec

from engines.kv import Span

FLOAT_BYTES = 4


class KvLayout(msgspec.Struct, frozen=True):
    """How tokens become rows, and rows bytes; `width` is float32 values a row and layer."""

    token_scale: int
    block_tokens: int
    layers: int
    width: int

    @property
    def rows_per_block(self) -> int:
        """Emulated tokens in one block."""
        return self.block_tokens // self.token_scale

    @property
    def row_bytes(self) -> int:
        """Bytes of one emulated token in all layers (k' of the scaling law)."""
        return self.layers * self.width * FLOAT_BYTES

    @property
    def block_bytes(self) -> int:
        """Bytes of one Full Block."""
        return self.row_bytes * self.rows_per_block

    def rows(self, tokens: int) -> int:
        """Emulated position of a real one: real positions are authoritative."""
        return tokens // self.token_scale

    def span_bytes(self, span: Span) -> int:
        """What a span weighs in a pool and on the wire."""
        rows = self.rows(span.last) - self.rows(span.first)
        return rows * (span.layer_last - span.layer_first) * self.width * FLOAT_BYTES


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
