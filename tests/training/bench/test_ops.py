"""The benchmarks: that they measure what they say, on shapes of no size."""

import pytest
import torch

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
        "synthesis_tail, first",
        "synthesis_tail, second",
    ]
    assert all(row.milliseconds > 0 and row.over_reference > 0 for row in rows)
    assert rows[0].megabytes == pytest.approx(2 * 4 * 16 * 8 * 8 / 1e6)
    assert rows[3].megabytes == pytest.approx(1.25 * 4 * 16 * 8 * 8 / 1e6)
    assert native.mode() == before
