"""What the exchanges of an engine group weigh: expert parallelism's dispatch and combine.

A token goes once to each host that has one of its experts, however many of them it has there, and
its results come back summed up: so do DeepEP's kernels, which the paper's system uses. With k
experts a token, spread evenly over n hosts, a peer has one of them with probability
1 - (1 - 1/n)^k. Dispatch carries the hidden state in FP8, combine in BF16.
"""

from engines.config import ExchangeConfig
from testbed.scale import scaling
from testbed.spec import Experiment

DISPATCH_BYTES, COMBINE_BYTES = 1, 2  # of a value of the hidden state: FP8 and BF16
LEAST_BYTES = 256  # of a message, in the emulated world: a step without tokens meets all the same
# What the network takes for a message beyond its bytes where nothing else is on it, in real
# seconds: links and switches of this machine, and softirqs that wait for a CPU (docs/isolation.md).
IDLE_S = 500e-6


def exchange(experiment: Experiment, hosts: int) -> ExchangeConfig:
    """The exchanges of a group of so many hosts: emulated bytes, target seconds.

    All layers of the model cross the network in fewer emulated layers, each of which carries as
    much more.
    """
    model, law = experiment.model, scaling(experiment)
    reached = 1 - (1 - 1 / hosts) ** model.experts_per_token if hosts > 1 else 0.0
    values = model.hidden_size * reached * model.layers / experiment.scale.layers
    gpus = experiment.cluster.gpus_per_node if experiment.cluster.folded else 1
    bps = law.bps(experiment.hardware.cnic_bytes_per_s * gpus)
    return ExchangeConfig(
        dispatch_bytes=law.bytes(values * DISPATCH_BYTES),
        combine_bytes=law.bytes(values * COMBINE_BYTES),
        least_bytes=LEAST_BYTES,
        bytes_per_s=bps / 8 * law.time_scale,
        idle_s=law.target_s(IDLE_S),
    )
