"""Profiles: what a token weighs and costs, and what a server node can do. Target units."""

from typing import Annotated

import msgspec
from msgspec import Meta

Rate = Annotated[float, Meta(ge=1e3, le=1e15)]
Size = Annotated[float, Meta(ge=1, le=1e15)]
Share = Annotated[float, Meta(gt=0, le=1)]
Delay = Annotated[float, Meta(ge=0, lt=10)]
Name = Annotated[str, Meta(min_length=1)]


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model: KV bytes of a token and layer, prefill time of one GPU, decode time a token.

    One GPU computes `appended` tokens on `cached` ones in
    `appended x (per_token_s + per_pair_s x (cached + appended / 2))` seconds. Of `per_token_s`,
    `expert_per_token_s` is the experts' part, which a group's GPUs compute together. A token's
    hidden state of `hidden_size` values goes to `experts_per_token` experts; none: a dense model.
    """

    name: Name
    kv_bytes_per_token_layer: Annotated[float, Meta(ge=1e-3, le=1e7)]
    layers: Annotated[int, Meta(ge=1, le=1000)]
    per_token_s: Annotated[float, Meta(ge=1e-12, le=1)]
    per_pair_s: Annotated[float, Meta(ge=0, le=1)]
    expert_per_token_s: Annotated[float, Meta(ge=0, le=1)] = 0.0
    tpot_s: Annotated[float, Meta(ge=1e-5, le=10)]
    hidden_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    experts_per_token: Annotated[int, Meta(ge=0, le=1000)] = 0

    @property
    def kv_bytes_per_token(self) -> float:
        """KV bytes of one token in all layers."""
        return self.kv_bytes_per_token_layer * self.layers

    def attention_s(self, cached_tokens: float, appended_tokens: float) -> float:
        """The part of `prefill_gpu_s` that the request's own GPU computes."""
        experts_s = appended_tokens * self.expert_per_token_s
        return self.prefill_gpu_s(cached_tokens, appended_tokens) - experts_s

    def prefill_gpu_s(self, cached_tokens: float, appended_tokens: float) -> float:
        """Seconds of one GPU over all layers."""
        context = cached_tokens + appended_tokens / 2
        return appended_tokens * (self.per_token_s + self.per_pair_s * context)


class HardwareProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server node: payload rates a direction in bytes/s, memories in bytes.

    `dram_cache_bytes` of DRAM, beside the buffer's, keep blocks that the node read or persisted.
    """

    name: Name
    snic_bytes_per_s: Rate
    snic_share: Share
    cnic_bytes_per_s: Rate
    dram_bytes_per_s: Rate
    hbm_kv_bytes_per_gpu: Size
    dram_buffer_bytes: Size
    dram_cache_bytes: Annotated[float, Meta(ge=0, le=1e15)] = 0.0


class Delays(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One-way delays in seconds of each link of a kind; `storage` is that of storage hosts' NICs.

    Bytes and messages have them on top of the time that rates give, once for each link they cross.
    """

    snic: Delay = 0.0
    cnic: Delay = 0.0
    pcie: Delay = 0.0
    uplink: Delay = 0.0
    storage: Delay = 0.0
