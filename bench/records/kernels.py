"""Choose torch's kernels for the CPU, so that processors of different age give the same digits."""

import os
import sys
from pathlib import Path

VARIABLE = "ATEN_CPU_CAPABILITY"
ONEDNN = "ONEDNN_MAX_CPU_ISA"  # of LSTM and convolutions


def use_common_kernels(listing: Path = Path("/proc/cpuinfo")) -> None:
    """Let torch use AVX2 where the processor has AVX512 as well, in this process and those that it starts.

    AVX512 kernels add in another order, and save at most a tenth of a training step. A value of ATEN_CPU_CAPABILITY that is set
    holds; so does what a process has chosen that computed with torch before.
    """
    try:
        newer = " avx512f " in listing.read_text(encoding="utf-8", errors="replace").replace("\n", " ")
    except OSError:
        return
    if newer and VARIABLE not in os.environ:
        os.environ[VARIABLE] = "avx2"
        if "torch" in sys.modules:
            os.environ[VARIABLE] = sys.modules["torch"].backends.cpu.get_cpu_capability().lower()
        if os.environ[VARIABLE] == "avx2":
            os.environ.setdefault(ONEDNN, "AVX2")
