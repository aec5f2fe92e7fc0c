"""The benchmarks: that they measure what they say, on shapes of no size."""

import pytest
import torch

from lafite_shifted.decoder.generator import GeneratorConfig
from torch_utils.ops import native
from training.bench import ops as bench

CPU = torch.device("cpu")


def test_every_operator_is_measured():
    before = native.mode()
    rows = list(
        bench.bench_ops(
            device=CPU,
            rounds=1,
            compile_reference=False,
            shapes=((1, 16, 8),),
            dtypes=(torch.float32,),
        )
    )
    assert [row.op for row in rows] == [
        "bias_act",
        "synthesis_epilogue",
        "upfirdn2d up 2",
        "upfirdn2d down 2",
        "upfirdn2d filter",
        "upsample and add",
        "to_rgb",
    ]
    assert all(row.milliseconds > 0 and row.over_reference > 0 for row in rows)
    assert rows[0].megabytes == pytest.approx(2 * 4 * 16 * 8 * 8 / 1e6)
    assert rows[3].megabytes == pytest.approx(1.25 * 4 * 16 * 8 * 8 / 1e6)
    assert native.mode() == before


def test_generation_counts_what_is_outside_convolutions():
    config = GeneratorConfig(
        resolution=32, condition_dim=8, channel_base=1024, channel_max=32, z_dim=16, w_dim=16
    )
    network = bench.untrained(config, device=CPU, dtype="bfloat16")
    found = bench.bench_generation(network, batch=2, device=CPU, rounds=1)
    assert found.dtype == "bfloat16"
    for name in ("compiled", "reference"):
        assert 0 < found.outside[name] < found.milliseconds[name]
