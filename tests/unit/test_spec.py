"""Experiment files: profiles, overrides, cross checks, and what a scheduler is told."""

from pathlib import Path

import msgspec
import pytest

from scheduler.types import Side
from testbed import cluster
from testbed.errors import InputError
from testbed.spec import BLOCK_TOKENS, Experiment, load_experiment
from testbed.spec_workload import FixedWorkload
from testbed.workload import averages, build_workload

ROOT = Path(__file__).parents[2]
SMALL = """\
cluster:
  prefill_nodes: 1
  decode_nodes: 2
model: ds-27b
hardware: hopper8
workload:
  kind: fixed
  agents: 40
"""


def load(tmp_path: Path, text: str = SMALL, *overrides: str) -> Experiment:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def complaint(tmp_path: Path, text: str = SMALL, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("path", sorted((ROOT / "topologies").glob("*.yaml")), ids=lambda p: p.stem)
def test_packaged_experiments_are_valid_and_fit(path: Path) -> None:
    experiment = load_experiment(path)
    workload = build_workload(experiment.workload, experiment.seed)
    cluster.check_fits(experiment, averages(workload, BLOCK_TOKENS))
    said = cluster.warnings(experiment)
    if path.stem == "isolation":  # compute NICs that KV congests are what it is for
        assert len(said) == 2 and "compute NICs are worth 0.2 storage NICs" in said[0]
    else:
        assert said == []


def test_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    documented = load_experiment(ROOT / "topologies/1p2d.yaml")
    bare = load(tmp_path, SMALL.replace("40", "1200"))
    assert documented == bare


def test_ds_27b_costs_what_the_paper_says(tmp_path: Path) -> None:
    model = load(tmp_path).model
    assert model.kv_bytes_per_token == 19_680
    assert model.prefill_gpu_s(32_721, 429) == pytest.approx(56.8e-3, rel=1e-3)
    context_s = 429 * model.per_pair_s * (32_721 + 429 / 2)
    assert context_s / model.prefill_gpu_s(32_721, 429) == pytest.approx(0.30, abs=0.005)


def test_the_dense_model_is_the_papers_cache_to_compute_ratio() -> None:
    experiment = load_experiment(ROOT / "topologies/1p2d-qwen.yaml")
    model = experiment.model
    assert model.kv_bytes_per_token == 256 * 1024
    assert experiment.hardware.dram_buffer_bytes == 320e9
    flops_per_s = 0.4e15
    # GB of KV a PFLOP at 16K and 64K tokens of context and 429 appended (table 1): 117 and 267.
    for context, ratio in ((16 * 1024, 117), (64 * 1024, 267)):
        flops = model.prefill_gpu_s(context, 429) * flops_per_s
        assert context * model.kv_bytes_per_token / flops * 1e6 == pytest.approx(ratio, rel=0.02)


def test_resolved_experiment_stands_for_itself(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL, "nodes.de1.snic_share=0.35", "seed=7")
    again = load(tmp_path, experiment.resolved())
    assert again == experiment


def test_profile_beside_the_experiment_keeps_its_own_lines(tmp_path: Path) -> None:
    packaged = (ROOT / "testbed/profiles/models/ds-27b.yaml").read_text()
    mine = tmp_path / "mine.yaml"
    text = SMALL.replace("ds-27b", "mine.yaml")
    mine.write_text(packaged.replace("name: ds-27b", "name: mine"))
    assert load(tmp_path, text).model.name == "mine"
    lines = packaged.replace("layers: 30", "layers: 0").splitlines()
    mine.write_text("\n".join(lines))
    line = lines.index("layers: 0") + 1
    assert complaint(tmp_path, text).startswith(f"mine.yaml:{line}: model.layers is 0; it must be")


def test_unknown_profile_names_the_nearest(tmp_path: Path) -> None:
    assert complaint(tmp_path, SMALL.replace("ds-27b", "ds-28b")) == (
        "x.yaml:4: model profile 'ds-28b' is neither packaged nor a file beside the experiment; "
        "nearest packaged: 'ds-27b'"
    )


def test_overrides_reach_into_profiles(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "hardware.snic_share=1").snic_bytes_per_s("pe0") == 50e9
    assert complaint(tmp_path, SMALL, "hardware.snic_share=1.5").startswith(
        "--set hardware.snic_share=1.5: hardware.snic_share is 1.5; it must be a number above 0"
    )
    assert load(tmp_path, SMALL.replace("ds-27b", "none"), "model=ds-27b").model.name == "ds-27b"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prefill_nodes: 1", "prefill_nodes: 0", "x.yaml:2: cluster.prefill_nodes is 0;"),
        (
            "decode_nodes: 2",
            "decode_nodes: 2\n  gpus_per_node: 0",
            "x.yaml:4: cluster.gpus_per_node is 0;",
        ),
        (
            "  decode_nodes: 2\n",
            "",
            "x.yaml:1: key 'decode_nodes' is missing in section 'cluster'; "
            "give it a whole number at least 1 and at most 1000",
        ),
        (
            "agents: 40",
            "agnets: 40",
            "x.yaml:8: unknown key 'agnets' in section 'workload'; nearest known: 'agents'",
        ),
        (
            "kind: fixed",
            "kind: wekka",
            "x.yaml:7: workload.kind cannot be 'wekka'; nearest known: 'weka'",
        ),
        (
            "agents: 40",
            "agents: 40\nscale: {token_scale: 48}",
            "x.yaml:9: scale.token_scale is 48;",
        ),
        (
            "agents: 40",
            "agents: 40\nnodes:\n  de2: {snic_share: 0.5}",
            "x.yaml:10: no node 'de2' in this cluster; nearest node: 'de1'",
        ),
        (
            "agents: 40",
            "agents: 40\nengine:\n  prefill_gpu_pool_bytes: 600e9",
            "x.yaml:10: engine.prefill_gpu_pool_bytes is 6e+11",
        ),
    ],
)
def test_bad_input_names_file_line_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    found = complaint(tmp_path, SMALL.replace(old, new))
    assert found.startswith(message)


def test_the_large_model_is_the_papers_at_its_mean_turn() -> None:
    model = load_experiment(ROOT / "topologies/48p96d.yaml").model
    assert model.layers == 61
    # 34 turns/s a node of eight GPUs, hits of 1.57 GB.
    computed, hits = 429 + 32, 32_721 - 32  # the last block is only half there
    assert 8 / model.prefill_gpu_s(hits, computed) == pytest.approx(34, rel=0.001)
    experts = 1 - model.attention_s(hits, computed) / model.prefill_gpu_s(hits, computed)
    assert experts == pytest.approx(48 / 142, abs=0.005)
    assert 32_721 * model.kv_bytes_per_token == pytest.approx(1.57e9, rel=0.005)


def test_node_override_takes_the_place_of_the_share(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL, "nodes.de1.snic_share=0.35")
    assert experiment.snic_bytes_per_s("de1") == pytest.approx(17.5e9)
    assert experiment.snic_bytes_per_s("de0") == pytest.approx(35e9)


def test_scheduler_is_told_engines_and_thresholds(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL, "cluster.gpus_per_node=4", "cluster.group_nodes=2")
    mean = averages(build_workload(experiment.workload, 0), BLOCK_TOKENS)
    spec = cluster.cluster_spec(experiment, mean)
    names = [engine.name for engine in spec.engines]
    assert names == [f"{node}/{lane}" for node in ("pe0", "de0", "de1") for lane in range(4)]
    assert {e.group for e in spec.engines if e.side is Side.DE} == {"de-group0"}
    assert {e.group for e in spec.engines if e.side is Side.PE} == {"pe-group0"}
    assert spec.engines[0].hbm_tokens == int(20e9 / 19_680) // 64 * 64
    assert spec.engines[-1].hbm_tokens == int(70e9 / 19_680) // 64 * 64
    assert spec.alpha_tokens == int(3 * 35e9 / 19_680)
    turns_in_5_s = 5 / experiment.model.prefill_gpu_s(mean.hit_tokens, mean.computed_tokens)
    assert spec.beta_tokens == pytest.approx(turns_in_5_s * mean.prompt_tokens, rel=1e-6)


def test_few_gpus_a_node_are_warned_of(tmp_path: Path) -> None:
    # 2 x 50 GB/s of compute NICs on 35 GB/s of storage.
    found = cluster.warnings(load(tmp_path, SMALL, "cluster.gpus_per_node=2"))
    assert any("worth 2.9 storage NICs" in warning for warning in found)
    assert cluster.warnings(load(tmp_path, SMALL, "cluster.gpus_per_node=4")) == []


def test_bottleneck_free_interval_is_the_papers(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL, "hardware.snic_share=1")
    assert cluster.bottleneck_free(experiment) == pytest.approx((1 / 7, 7 / 2))
    wide = load(tmp_path, SMALL, "hardware.snic_share=1", "cluster.prefill_nodes=8")
    (warning,) = cluster.warnings(wide)
    assert "P/D is 4.00, outside 0.14 to 3.50" in warning
    assert "DE dram may bind first" in warning


def test_the_interval_of_our_ports_has_other_ends_where_dram_does_not_bind(tmp_path: Path) -> None:
    """The paper's node has 7/2 from its DE CNICs' writes; into a buffer, none cross our GPUs'."""
    settings = ("hardware.snic_share=1", "hardware.dram_bytes_per_s=1e14")
    experiment = load(tmp_path, SMALL, *settings)
    assert cluster.bottleneck_free(experiment) == pytest.approx((1 / 7, 7 / 2))
    free = cluster.port_interval(experiment)
    assert (free.low, free.high) == pytest.approx((1 / 7, 6))
    assert [free.first(ratio) for ratio in (0.14, 0.15, 5.9, 6.1)] == [
        "PE cnic rx", "SNICs", "SNICs", "DE pcie tx",
    ]  # fmt: skip
    ten = load(tmp_path, SMALL, "hardware.snic_share=1", "hardware.dram_bytes_per_s=500e9")
    assert cluster.port_interval(ten).high == pytest.approx(7 / 2)
    assert cluster.port_interval(ten).above == "DE dram"


def test_context_that_fits_nowhere_is_bad_input(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL, "workload.cached_tokens=1200000")
    mean = averages(build_workload(experiment.workload, 0), BLOCK_TOKENS)
    with pytest.raises(InputError, match=r"prefill_gpu_pool_bytes holds 1016\d\d\d"):
        cluster.check_fits(experiment, mean)


def test_experiments_are_immutable_values(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert isinstance(experiment.workload, FixedWorkload)
    with pytest.raises(AttributeError):
        experiment.seed = 3  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(experiment), type=Experiment) == experiment


@pytest.mark.parametrize(("setting", "says"), [
    ("scale.token_scale=1.0", "scale.token_scale is 1.0"),
    ("engine.fetch_period_s=1e-9", "at least 0.001"),
    ("model.tpot_s=1e-300", "at least 1e-05"),
    ("model.kv_bytes_per_token_layer=1e-300", "at least 0.001"),
    ("hardware.snic_bytes_per_s=1e-300", "at least 1000"),
])  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(tmp_path: Path, setting: str, says: str) -> None:
    assert says in complaint(tmp_path, SMALL, setting)


def test_a_profile_with_an_endless_name_is_shortened(tmp_path: Path) -> None:
    said = complaint(tmp_path, SMALL, f"model={'x' * 5000}")
    assert "x..." in said and len(said) < 6000


def test_packaged_experiments_are_found_by_name_and_files_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1p2d.yaml", "topologies/1p2d.yaml"):
        assert load_experiment(Path(name)).cluster.decode_nodes == 2
    with pytest.raises(InputError, match=r"elsewhere/1p2d\.yaml: cannot be read"):
        load_experiment(Path("elsewhere/1p2d.yaml"))
    mine = (ROOT / "topologies/1p2d.yaml").read_text().replace("decode_nodes: 2", "decode_nodes: 3")
    Path("1p2d.yaml").write_text(mine)
    assert load_experiment(Path("1p2d.yaml")).cluster.decode_nodes == 3
