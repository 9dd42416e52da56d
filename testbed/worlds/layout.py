"""From an experiment, a workload and a policy to what each host of the emulated world plays."""

from collections import defaultdict
from pathlib import Path

import msgspec
import xxhash

from engines.agents import AgentsConfig
from engines.config import (
    BufferConfig,
    DecodeConfig,
    GpuTime,
    GroupConfig,
    KvShape,
    PrefillConfig,
    ServiceConfig,
    StorageConfig,
)
from engines.kv import address_space, round_up
from engines.layout import DecoderShape, KvLayout
from scheduler.types import ClusterSpec, Side
from testbed.cluster import (
    buffer_tokens,
    cache_tokens,
    check_fits,
    cluster_spec,
    decode_lane_tokens,
    group_name,
    prefill_lane_tokens,
)
from testbed.ideal import as_played
from testbed.policies import Chosen
from testbed.scale import scaling
from testbed.spec import BLOCK_TOKENS, Experiment
from testbed.workload import Workload, averages
from testbed.worlds.exchange import exchange
from testbed.worlds.knobs import knobs
from testbed.worlds.plan import AGENTS, SCHEDULER, HostPlan, LabPlan, Opening, WorldPlan
from testbed.worlds.wires import wire_plan

PADDED_TO_ROWS = 128
PHASES = 32  # decode ticks in the time of a block's tokens
PERSIST_BLOCKS = 1024  # a DE buffer's room for generated blocks on their way to storage
INBOX_BLOCKS = 4096  # each buffer's part of a storage host's inbox
SAMPLE_PERIOD_S = 0.25
START_DEADLINE_S = 120.0


class Layout:
    """Names, sizes and groups of one policy's run; `plan` is the whole of it."""

    def __init__(
        self, experiment: Experiment, workload: Workload, policy: Chosen, folder: Path, cache: Path
    ) -> None:
        self._experiment = as_played(experiment, policy)
        self._workload = workload
        self._folder = folder
        self._cache = cache
        self.chosen = policy
        self.knobs = knobs(experiment, policy)
        self.traits = policy.traits(**self.knobs)
        self.means = averages(workload, BLOCK_TOKENS)
        check_fits(experiment, self.means)
        self.cluster: ClusterSpec = cluster_spec(experiment, self.means)
        scale = experiment.scale
        self.shape = DecoderShape(layers=scale.layers)
        self.kv = KvLayout(scale.token_scale, BLOCK_TOKENS, scale.layers, self.shape.kv_width)
        self.scaling = scaling(experiment)
        self._kv_shape = KvShape(scale.layers, BLOCK_TOKENS, scale.token_scale)
        openings = [opening.tokens for opening in workload.openings]
        self._longest = max([self.means.max_context_tokens, *openings])
        self._nodes = [*experiment.cluster.prefill, *experiment.cluster.decode]
        self._buffers = {node: f"{node}-buf" for node in self._nodes}
        self._gpu_hosts = {e.name: self._gpu_host(e.name) for e in self.cluster.engines}
        self._sides = {engine.node: engine.side for engine in self.cluster.engines}
        # Nodes by group and lanes by node, each in its order: no host looks through all engines.
        self._members: dict[str, list[str]] = defaultdict(list)
        self._lanes: dict[str, list[str]] = defaultdict(list)
        self._groups: dict[Side, list[str]] = {side: [] for side in Side}
        for node in self._nodes:
            name = group_name(experiment, node)
            if name not in self._members:
                self._groups[self._sides[node]].append(name)
            self._members[name].append(node)
        for engine in self.cluster.engines:
            self._lanes[engine.node].append(engine.name)
        gpu_hosts = dict.fromkeys(self._gpu_hosts.values())
        self._concerned = [*self._buffers.values(), *gpu_hosts, SCHEDULER, AGENTS]
        self._storages = tuple(f"store{n}" for n in range(experiment.cluster.storage_hosts))

    def plan(self, run_id: int) -> LabPlan:
        """Everything that the lab needs."""
        return LabPlan(
            self._world(run_id), wire_plan(self._experiment), tuple(self._hosts()), SAMPLE_PERIOD_S,
            START_DEADLINE_S,
        )  # fmt: skip

    @property
    def pipeline_turns(self) -> int:
        """Turns that reads in flight and two forwards of every lane can hold at once."""
        experiment = self._experiment
        reading = len(self._nodes) if self.traits.layerwise else len(experiment.cluster.prefill)
        lanes = experiment.cluster.gpus_per_node * experiment.cluster.prefill_nodes
        return reading * experiment.engine.reads_in_flight + 2 * lanes * self._batch_turns()

    def _batch_turns(self) -> int:
        """Mean turns of a lane's full forward, as far as the node's buffers feed it."""
        traits, mean = self.traits, self.means
        turn_s = self._experiment.model.attention_s(mean.hit_tokens, mean.computed_tokens)
        buffered = buffer_tokens(self._experiment) / mean.prompt_tokens
        limits = [buffered / self._experiment.cluster.gpus_per_node]
        if traits.quota_s is not None:
            limits.append(traits.quota_s / turn_s)
        if traits.max_tokens is not None:
            limits.append(traits.max_tokens / mean.computed_tokens)
        return max(1, round(min(limits)))

    def _gpu_host(self, engine: str) -> str:
        node, lane = engine.split("/")
        return f"{node}-gpu" if self._experiment.cluster.folded else f"{node}-gpu{lane}"

    def _world(self, run_id: int) -> WorldPlan:
        scale = self._experiment.scale
        rows = self.kv.rows(self._longest) + 1
        padded_rows = round_up(rows, PADDED_TO_ROWS)
        words = msgspec.json.encode((self.shape, padded_rows))
        return WorldPlan(
            run_id=run_id,
            folder=str(self._folder),
            cache=str(self._cache),
            time_scale=scale.time_scale,
            layout=self.kv,
            shape=self.shape,
            fingerprint=xxhash.xxh3_64_hexdigest(words),
            padded_rows=padded_rows,
            author_seed=self._experiment.seed,
            openings=tuple(Opening(o.id, o.tokens) for o in self._workload.openings),
            storages=self._storages,
            verify_digests=self._experiment.engine.verify_digests,
            policy_knobs=self.knobs,
            ready=self.chosen.ready,
            scheduler_deadline_s=self._experiment.engine.scheduler_deadline_s,
            real_kv=self._experiment.engine.real_kv,
        )

    def _hosts(self) -> list[HostPlan]:
        hosts = [self._storage_host(name) for name in self._storages]
        hosts += [self._buffer_host(node) for node in self._nodes]
        hosts += [self._engine_host(node, host) for node in self._nodes for host in self._on(node)]
        word = self.chosen.word_in(self._folder)
        service = ServiceConfig(
            SCHEDULER, self.cluster, word, self._gpu_hosts, self._buffers,
            restarts_s=tuple(sorted(self._experiment.engine.scheduler_restart_s)),
        )  # fmt: skip
        hosts.append(HostPlan(service, {}))
        everyone = tuple(host.name for host in hosts)
        agents = AgentsConfig(
            host=AGENTS,
            scheduler=SCHEDULER,
            everyone=everyone,
            agents=self._workload.agents,
            block_tokens=BLOCK_TOKENS,
            deadline_s=self._experiment.engine.deadline_s,
            window_s=self._experiment.workload.window_s,
        )
        return [*hosts, HostPlan(agents, {})]

    def _storage_host(self, name: str) -> HostPlan:
        engine = self._experiment.engine
        longest = round_up(self._longest, BLOCK_TOKENS)
        stage = engine.reads_in_flight * len(self._nodes) * longest
        config = StorageConfig(name, self._kv_shape, stage, engine.deadline_s)
        inbox = len(self._nodes) * _addresses(self._inbox_tokens)
        return HostPlan(config, {"stage": _addresses(stage), "inbox": inbox})

    @property
    def _inbox_tokens(self) -> int:
        return max(INBOX_BLOCKS * BLOCK_TOKENS, round_up(self._longest, BLOCK_TOKENS))

    def _buffer_host(self, node: str) -> HostPlan:
        experiment = self._experiment
        side = self._sides[node]
        config = BufferConfig(
            host=self._buffers[node],
            node=node,
            side=side.value,
            group=self._group(node),
            kv=self._kv_shape,
            dram_tokens=buffer_tokens(experiment),
            dram_tokens_per_s=(
                experiment.hardware.dram_bytes_per_s / experiment.model.kv_bytes_per_token
            ),
            reads_in_flight=experiment.engine.reads_in_flight,
            read_ahead=self.traits.read_ahead,
            storages=self._storages,
            inbox_base=self._nodes.index(node) * _addresses(self._inbox_tokens),
            inbox_tokens=self._inbox_tokens,
            engine_hosts=self._gpu_hosts,
            everyone=self._all_but(self._buffers[node]),
            deadline_s=experiment.engine.deadline_s,
            cache_tokens=cache_tokens(experiment),
        )
        pools = {"dram": _addresses(config.dram_tokens)}
        if config.cache_tokens:
            pools["cache"] = config.cache_tokens  # in pages: holes cost nothing
        if side is Side.DE:
            pools["persist"] = _addresses(PERSIST_BLOCKS * BLOCK_TOKENS)
        return HostPlan(config, pools)

    def _on(self, node: str) -> list[str]:
        """The hosts of a node's GPUs."""
        return list(dict.fromkeys(self._gpu_hosts[lane] for lane in self._lanes[node]))

    def _engine_host(self, node: str, host: str) -> HostPlan:
        lanes = tuple(lane for lane in self._lanes[node] if self._gpu_hosts[lane] == host)
        if self._sides[node] is Side.PE:
            return self._prefill_host(host, node, lanes)
        return self._decode_host(host, node, lanes)

    def _prefill_host(self, host: str, node: str, lanes: tuple[str, ...]) -> HostPlan:
        experiment, model = self._experiment, self._experiment.model
        config = PrefillConfig(
            host=host,
            lanes=lanes,
            group=self._group(node),
            kv=self._kv_shape,
            traits=self.traits,
            gpu=GpuTime(model.per_token_s, model.per_pair_s, model.expert_per_token_s),
            pool_tokens=len(lanes) * prefill_lane_tokens(experiment),
            buffers=self._buffers,
            client=AGENTS,
            deadline_s=experiment.engine.deadline_s,
        )
        return HostPlan(config, {"hbm": _addresses(config.pool_tokens)})

    def _decode_host(self, host: str, node: str, lanes: tuple[str, ...]) -> HostPlan:
        experiment = self._experiment
        hosts = self._on(node)
        persist = PERSIST_BLOCKS // len(hosts) * BLOCK_TOKENS
        config = DecodeConfig(
            host=host,
            buffer=self._buffers[node],
            lanes=lanes,
            group=self._group(node),
            kv=self._kv_shape,
            lane_tokens=decode_lane_tokens(experiment),
            parked_tokens=buffer_tokens(experiment) // experiment.cluster.gpus_per_node,
            tpot_s=experiment.model.tpot_s,
            phases=max(1, PHASES * experiment.scale.token_scale // BLOCK_TOKENS),
            persist_base=hosts.index(host) * _addresses(persist),
            persist_tokens=persist,
            kv_samples=experiment.engine.kv_samples,
            client=AGENTS,
            scheduler=SCHEDULER,
            deadline_s=experiment.engine.deadline_s,
        )
        return HostPlan(config, {"hbm": len(lanes) * _addresses(config.lane_tokens)})

    def _group(self, node: str) -> GroupConfig:
        name = group_name(self._experiment, node)
        nodes = self._members[name]
        side, period_s = self._sides[node], self._experiment.engine.fetch_period_s
        peers = self._groups[side]
        engines = [host for member in nodes for host in self._on(member)]
        return GroupConfig(
            name=name,
            leader=engines[0],
            engines=tuple(engines),
            members=(*engines, *(self._buffers[node] for node in nodes)),
            scheduler=SCHEDULER,
            period_s=period_s,
            phase_s=period_s * peers.index(name) / len(peers),
            exchange=exchange(self._experiment, len(engines)),
        )

    def _all_but(self, host: str) -> tuple[str, ...]:
        """Whom a failed turn concerns: every host but the storage's, and not the one that tells."""
        at = self._concerned.index(host)
        return (*self._concerned[:at], *self._concerned[at + 1 :])


def _addresses(tokens: int) -> int:
    return address_space(tokens, BLOCK_TOKENS)
