"""The static gates: what they read from the compiler, and what they complain about."""

from ops_cuda import gates

FILTER = (
    "_ZN2ls45_GLOBAL__N__fd4c8330_12_upfirdn2d_cu_7a1bfa7716upfirdn2d_kernel"
    "INS_8bfloat16ELi8ELi2ELi1ELi4ELb1EEEvPKT_"
)
BIAS = "_ZN2ls45_GLOBAL__N__fd4c8330_11_bias_act_cu_7a1bfa7715bias_act_kernelIfLi4EEEvPKT_"
PTXAS = f"""
ptxas info    : Compiling entry function '{FILTER}' for 'sm_90'
ptxas info    : Function properties for _ZN2ls
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 0 barriers, 512 bytes smem
ptxas info    : Compiling entry function '{BIAS}' for 'sm_90'
ptxas info    : Used 25 registers, used 0 barriers
"""
WIDE = f".visible .entry {BIAS}()\n"


def test_registers_and_shared_memory_are_read():
    assert gates.parse_usage(PTXAS) == {
        "upfirdn2d_kernel<bfloat16, 8, 2, 1, 4, 1>": {"registers": 48, "shared": 512},
        "bias_act_kernel<float, 4>": {"registers": 25, "shared": 0},
    }


def test_narrow_accesses_are_found():
    good = WIDE + "ld.global.nc.v4.u32 {a}\nst.global.wb.v4.u32 {a}\n"
    assert gates.wide_access_problems("bias_act", good) == []
    narrow = WIDE + "ld.global.nc.v4.u32 {a}\nst.global.u32 [a]\n"
    expected = "bias_act.cu: bias_act_kernel<float, 4> has no 128-bit st.global"
    assert gates.wide_access_problems("bias_act", narrow) == [expected]


def test_a_rise_and_an_unknown_kernel_are_named():
    baseline = {"sm_90": {"a": {"registers": 20, "shared": 0}}}
    assert gates.rises({"sm_90": {"a": {"registers": 20, "shared": 0}}}, baseline) == []
    risen = gates.rises({"sm_90": {"a": {"registers": 24, "shared": 8}}}, baseline)
    assert risen == ["sm_90: a takes 24 registers, 20 before", "sm_90: a takes 8 shared, 0 before"]
    unknown = gates.rises({"sm_90": {"b": {"registers": 1, "shared": 0}}}, baseline)
    assert unknown == ["sm_90: b is not in the baseline"]
