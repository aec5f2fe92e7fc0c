"""Static checks of the CUDA kernels with the real nvcc, for machines without a GPU: `python -m
ops_cuda.gates`.

For every GPU generation: warnings are errors, no register spills, no local memory; the kernels that
memory binds read and write 128 bits at a time; registers and shared memory are not above the
committed baseline. `--update` writes the baseline anew: say in the commit why a number rose.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops_cuda.targets import KERNELS, SOURCES, CompilerMissingError, nvcc

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
BASELINE = SOURCES / "gates_baseline.json"
Usage = dict[str, int]  # registers and shared bytes


class GateError(Exception):
    """A kernel does not compile cleanly; the message holds the compiler's complaints."""


def compile_one(compiler: str, kernel: str, architecture: int) -> tuple[dict[str, Usage], str]:
    """Resources of each kernel function, and the PTX; GateError with the compiler's words."""
    with tempfile.TemporaryDirectory() as work:
        command = [compiler, "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-c"]
        command += ["-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-warn-lmem-usage"]
        command += ["-Xcompiler", "-fPIC,-Wall,-Wextra", "--keep", "--keep-dir", work]
        command += [str(SOURCES / f"{kernel}.cu"), "-o", f"{work}/kernel.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode != 0:
            reasons = [line for line in said.splitlines() if re.search("error|warning", line)]
            raise GateError(f"{kernel}.cu for sm_{architecture}:\n" + "\n".join(reasons))
        return parse_usage(said), (Path(work) / f"{kernel}.ptx").read_text(encoding="utf-8")


def parse_usage(said: str) -> dict[str, Usage]:
    """{kernel function: registers, shared bytes} from what `ptxas -v` prints."""
    found: dict[str, Usage] = {}
    name = ""
    for line in said.splitlines():
        entry = re.search(r"Compiling entry function '(\w+)'", line)
        if entry:
            name = short_name(entry.group(1))
        used = re.search(r"Used (\d+) registers", line)
        if used and name:
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = {
                "registers": int(used.group(1)),
                "shared": int(shared.group(1)) if shared else 0,
            }
    return found


def short_name(mangled: str) -> str:
    """`bias_act_kernel<f,4>` of a mangled name: the function and its template arguments."""
    match = re.match(r"_ZN2ls\d+_GLOBAL__N__\w+?_\w+?(?=\d+[a-z])(.*)", mangled)
    text = match.group(1) if match else mangled
    function = re.search(
        r"(bias_act|epilogue|philox|synthesis_tail|to_rgb|upfirdn2d)_?[a-z0-9]*?(?:_[a-z0-9]+)*(?=I)",
        text,
    )
    arguments = re.search(r"I((?:NS_\d+\w+?E|[fd])(?:L[ib]\d+E)*)E", text)
    types = {"f": "float", "d": "double"}
    if not function or not arguments:
        return mangled
    inside = arguments.group(1)
    kind = re.match(r"NS_\d+(\w+?)E", inside)
    first = kind.group(1) if kind else types[inside[0]]
    numbers = re.findall(r"L[ib](\d+)E", inside)
    return f"{function.group(0)}<{', '.join([first, *numbers])}>"


def wide_access_problems(kernel: str, ptx: str) -> list[str]:
    """Kernels of 16-byte lanes whose PTX lacks 128-bit global loads or stores."""
    problems = []
    for body in re.split(r"(?=\.visible \.entry|\.entry)", ptx)[1:]:
        mangled = re.search(r"\.entry (\w+)", body)
        name = short_name(mangled.group(1)) if mangled else "?"
        lanes = re.search(r"<(\w+), (\d+)", name)
        if not lanes or int(lanes.group(2)) == 1:
            continue
        writes_only = name.startswith("philox")  # it reads one index a row
        for what in ("st.global",) if writes_only else ("ld.global", "st.global"):
            if not re.search(rf"{re.escape(what)}(?:\.nc|\.wb)?\.v(?:4\.[ubf]32|2\.[ubf]64)", body):
                problems.append(f"{kernel}.cu: {name} has no 128-bit {what}")
    return problems


def rises(found: dict[str, dict[str, Usage]], baseline: dict[str, dict[str, Usage]]) -> list[str]:
    """Numbers above the baseline, and kernels that it does not know."""
    problems = []
    for architecture, kernels in found.items():
        for name, usage in kernels.items():
            known = baseline.get(architecture, {}).get(name)
            if known is None:
                problems.append(f"{architecture}: {name} is not in the baseline")
                continue
            problems += [
                f"{architecture}: {name} takes {usage[what]} {what}, {known[what]} before"
                for what in usage
                if usage[what] > known[what]
            ]
    return problems


def main() -> int:
    """Compile for every architecture, check, and compare with the baseline."""
    try:
        compiler = nvcc()
    except CompilerMissingError as error:
        print(f"static gates skipped: {error}")
        return 0
    tasks = [(kernel, architecture) for architecture in ARCHITECTURES for kernel in KERNELS]
    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            results = list(pool.map(lambda task: compile_one(compiler, *task), tasks))
    except GateError as error:
        print(error)
        return 1
    found: dict[str, dict[str, Usage]] = {}
    problems = []
    for (kernel, architecture), (usage, ptx) in zip(tasks, results, strict=True):
        found.setdefault(f"sm_{architecture}", {}).update(usage)
        problems += wide_access_problems(kernel, ptx)
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    release = re.search(r"release ([\d.]+)", version.stdout)
    nvcc_version = release.group(1) if release else "unknown"
    if "--update" in sys.argv:
        record = {"nvcc": nvcc_version, "kernels": found}
        BASELINE.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    if baseline["nvcc"] == nvcc_version:  # another compiler allots registers in another way
        problems += rises(found, baseline["kernels"])
    else:
        print(f"nvcc {nvcc_version}; the baseline is of {baseline['nvcc']} and is not compared")
    print("architecture  kernels  registers (most)  shared (static)  spills  local memory")
    for architecture, kernels in found.items():
        registers = max(usage["registers"] for usage in kernels.values())
        shared = max(usage["shared"] for usage in kernels.values())
        print(f"{architecture:13} {len(kernels):7} {registers:17} {shared:16} {0:7} {0:13}")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
