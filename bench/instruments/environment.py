"""Describe the machine and software of a run: versions, processor, GPU, threads, allocator settings, revision of the code.

Records are published, so no host name, user name or path is kept.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.instruments import nvml

# Variables that change speed, memory or determinism; their values are never paths.
VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "MKL_DYNAMIC", "KMP_BLOCKTIME"),
    *("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"),
    *("PYTHONHASHSEED", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("CUDA_LAUNCH_BLOCKING", "PYTORCH_NO_CUDA_MEMORY_CACHING", "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS"),
    *("CUBLASLT_WORKSPACE_SIZE", "TORCH_CUBLASLT_UNIFIED_WORKSPACE", "TORCH_BLAS_PREFER_CUBLASLT"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
PACKAGES = ("torch", "torchdiffeq", "numpy", "scipy", "pandas", "psutil", "nvidia-ml-py", "pydantic", "matplotlib")
CODE = ("deq", "baselines", "bench", "pyproject.toml")  # not results, which runs write


_ATTENTION = ("flash", "mem_efficient", "cudnn", "math")  # kernels of scaled_dot_product_attention that torch may choose
# Where float32 products may be rounded to TF32 on a GPU: by default in cuDNN, not in matrix products.
_BACKENDS: Any = torch.backends
_PRODUCTS = {"matmul": _BACKENDS.cuda.matmul, "convolution": _BACKENDS.cudnn.conv, "rnn": _BACKENDS.cudnn.rnn}


def use_float32() -> None:
    """Compute all float32 products in float32: one precision for a DEQ's matrix products and for an LSTM in cuDNN."""
    torch.set_float32_matmul_precision("highest")  # torch's older setting: where it differs, every product on a GPU raises
    for products in _PRODUCTS.values():
        products.fp32_precision = "ieee"


def environment(device: str, threads: int) -> dict[str, object]:
    """What a record keeps of this machine and process; an unknown value is None. Never raises."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_build": f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu",
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "gpu": gpu(device),
        "threads": threads,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "git": revision(Path(__file__).resolve().parents[2]),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cpu_name(listing: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's model name, from the kernel."""
    try:
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or None


def usable_cores() -> int | None:
    """Number of cores this process may run on; a container or taskset can reduce it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu(device: str, cuda: Any = torch.cuda, library: Any = None) -> dict[str, object] | None:
    """The GPU a run uses, its libraries and what they may do to digits, or None."""
    chosen = torch.device(device)
    if chosen.type != "cuda" or not cuda.is_available():
        return None
    try:
        properties = cuda.get_device_properties(chosen)
    except Exception:  # a broken device must not cost the record
        return None
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver(library),
        "cudnn": torch.backends.cudnn.version(),
        "float32": {name: products.fp32_precision for name, products in _PRODUCTS.items()},
        "attention": [name for name in _ATTENTION if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def why_no_gpu() -> str:
    """Why torch finds no GPU, as far as its build tells."""
    if torch.version.cuda is None:
        return "torch finds no CUDA device: this torch is built without CUDA"
    return f"torch finds no CUDA device: it is built for CUDA {torch.version.cuda}, which needs a GPU and a driver as new"


def driver(library: Any = None) -> str | None:
    """The NVIDIA driver's version."""
    try:
        library = library or nvml.load_library()
        library.nvmlInit()
        return str(library.nvmlSystemGetDriverVersion())
    except Exception:  # no module, driver or permission
        return None


def revision(root: Path) -> dict[str, object] | None:
    """Commit of the repository at `root`, and whether its code has changed; None where `root` is not the top of a repository,
    such as a virtual environment inside another one."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None
    changes = _git(root, "status", "--porcelain", "--", *CODE)
    return {"revision": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    # Inside a hook, GIT_DIR and the like name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True, env=variables
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
