"""The scaling law: from target units to emulated ones and back.

With N real tokens in an emulated one, tau real seconds in a target second, and KV of k bytes
a real token and k' an emulated one, the byte scale is beta = k' / (N k). Then
tokens' = tokens / N, bytes' = bytes x beta, rate' = rate x beta / tau, time' = time x tau.
Hit rate, P/D, CNIC : SNIC and load : compute stay what they are.
"""

from collections.abc import Iterable
from statistics import fmean

import msgspec

from engines.layout import FLOAT_BYTES
from testbed.spec import Experiment
from testbed.workload import Load

KV_WIDTH = 80  # float32 values of an emulated token's KV at one layer: 64 latent, 16 rotary


class Scaling(msgspec.Struct, frozen=True):
    """N, tau, k' (`row_bytes`) and k; rates are payload rates."""

    token_scale: int
    time_scale: float
    row_bytes: int
    kv_bytes_per_token: float

    @property
    def byte_scale(self) -> float:
        """beta: emulated bytes for one target byte."""
        return self.row_bytes / (self.token_scale * self.kv_bytes_per_token)

    def rows(self, tokens: int) -> int:
        """Emulated position of a real one; real positions are authoritative."""
        return tokens // self.token_scale

    def bytes(self, target_bytes: float) -> float:
        """Emulated bytes."""
        return target_bytes * self.byte_scale

    def bps(self, target_bytes_per_s: float) -> float:
        """Emulated bit/s of a link, from target bytes/s."""
        return target_bytes_per_s * 8 * self.byte_scale / self.time_scale

    def seconds(self, target_s: float) -> float:
        """Real seconds that stand for target ones."""
        return target_s * self.time_scale

    def target_bytes(self, emulated_bytes: float) -> float:
        """Target bytes that emulated ones stand for."""
        return emulated_bytes / self.byte_scale

    def target_bytes_per_s(self, bps: float) -> float:
        """Target bytes/s of a link, from emulated bit/s."""
        return bps / 8 * self.time_scale / self.byte_scale

    def target_s(self, emulated_s: float) -> float:
        """Target seconds that real ones stand for."""
        return emulated_s / self.time_scale

    def target_turns_per_s(self, emulated_turns_per_s: float) -> float:
        """A rate of events in target time."""
        return emulated_turns_per_s * self.time_scale


class Ratio(msgspec.Struct, frozen=True):
    """A dimensionless number of the target beside that of the emulation."""

    name: str
    target: float
    emulated: float


def scaling(experiment: Experiment) -> Scaling:
    """The law with an experiment's numbers."""
    scale = experiment.scale
    return Scaling(
        token_scale=scale.token_scale,
        time_scale=scale.time_scale,
        row_bytes=scale.layers * KV_WIDTH * FLOAT_BYTES,
        kv_bytes_per_token=experiment.model.kv_bytes_per_token,
    )


def dimensionless(experiment: Experiment, turns: Iterable[Load]) -> tuple[Ratio, ...]:
    """The numbers that scaling must keep, worked out from each side's own units.

    The emulated side counts emulated tokens, bytes and bit/s as the links carry them.
    """
    law, model, cluster = scaling(experiment), experiment.model, experiment.cluster
    snic_rate = experiment.hardware.snic_bytes_per_s * experiment.hardware.snic_share
    cnic_rate = experiment.hardware.cnic_bytes_per_s
    loads = list(turns)
    hit = fmean(load.hit_tokens for load in loads)
    prompt = fmean(load.prompt_tokens for load in loads)
    hit_rows = fmean(law.rows(load.hit_tokens) for load in loads)
    prompt_rows = fmean(law.rows(load.prompt_tokens) for load in loads)
    gpu_s = fmean(model.prefill_gpu_s(load.hit_tokens, load.computed_tokens) for load in loads)
    node_s = gpu_s / cluster.gpus_per_node
    load_s = hit * model.kv_bytes_per_token / snic_rate
    emulated_load_s = hit_rows * law.row_bytes * 8 / law.bps(snic_rate)
    ratio = cluster.prefill_nodes / cluster.decode_nodes
    return (
        Ratio("hit rate", hit / prompt, hit_rows / prompt_rows if prompt_rows else 0.0),
        Ratio("P/D", ratio, ratio),
        Ratio("CNIC : SNIC", cnic_rate / snic_rate, law.bps(cnic_rate) / law.bps(snic_rate)),
        Ratio("load : compute", load_s / node_s, emulated_load_s / law.seconds(node_s)),
    )
