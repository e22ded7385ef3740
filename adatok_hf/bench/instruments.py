"""What a benchmark measures with: a fair clock, counted FLOPs, peak memory, and the speed of a plain matmul."""

import ctypes
import time
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm


Name = TypeVar("Name", bound=Hashable)


def time_interleaved(
    calls: dict[Name, Callable[[], object]], device: torch.device, repeats: int, warmup: int
) -> dict[Name, list[float]]:
    """
    Gives the `repeats` times of each call in milliseconds. Every round makes each call once, in an order that rotates
    once in all rounds, so that a busy machine hits all of them alike. A GPU is synchronised before and after each
    call.
    """
    names = list(calls)
    timings = {name: [] for name in names}
    for round_index in tqdm(range(warmup + repeats), desc="Rounds", unit="round", disable=None):
        shift = round_index * len(names) // (warmup + repeats)
        for name in names[shift:] + names[:shift]:
            synchronize(device)
            start = time.perf_counter()
            calls[name]()
            synchronize(device)
            if round_index >= warmup:
                timings[name].append(1000 * (time.perf_counter() - start))
    return timings


def synchronize(device: torch.device):
    """Waits for the GPU, if that is what the device is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def ceiling_size(device: torch.device) -> int:
    """Rows of the matrices of [`matmul_calls`]: enough to be bound by arithmetic, few enough to be quick."""
    return 1024 if device.type == "cpu" else 8192


def matmul_calls(device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Callable[[], torch.Tensor]], int]:
    """
    A product of two large square matrices by every library that is at hand: the fastest is the practical ceiling of
    any transformer on the machine. PyTorch's own choice on a CPU is MKL for float32, which on some processors is far
    from what oneDNN reaches.

    Args:
        device (`torch.device`): Where to multiply.
        dtype (`torch.dtype`): Of both matrices.

    Returns:
        `tuple[dict[str, Callable], int]`: the calls to time, `torch` and, for float32 on a CPU, `oneDNN`; and the
        FLOPs of each, a multiplication and an addition counted as two.
    """
    size = ceiling_size(device)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    calls = {"torch": lambda: first @ second}
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        weight = second.T.contiguous()
        calls["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(first, weight, None, "none", [], "")
    return calls, 2 * size**3


@torch.no_grad()
def count_flops(call: Callable[[], object]) -> int:
    """
    Counts the FLOPs of all matrix products, convolutions and attentions of one call, from their shapes. A
    multiplication and an addition are two; normalisations, activations and lookups are not counted.

    Args:
        call (`Callable`): Runs eagerly; it is made once.

    Returns:
        `int`: FLOPs of the call.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.bench.instruments import count_flops

    >>> linear = torch.nn.Linear(8, 16)
    >>> count_flops(lambda: linear(torch.zeros(4, 8)))  # 2 * 4 * 8 * 16
    1024

    ```"""
    # Fused kernels hide their products from the counter, some of them on some devices only.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return counter.get_total_flops()


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """
    Peak memory of one call beyond what was there before it, the weights and inputs.

    Args:
        call (`Callable`): Runs eagerly; it is made once.
        device (`torch.device`): Where it runs.

    Returns:
        `int`: bytes. On a CUDA device as its allocator reports them; elsewhere those of the tensors that are alive at
        the same time, counted after each operation, without what an operation needs inside itself.

    Example:

    ```python
    >>> import torch
    >>> from adatok_hf.bench.instruments import peak_memory

    >>> inputs = torch.zeros(10)
    >>> peak_memory(lambda: inputs.exp().exp().exp(), inputs.device)  # two results of 10 * 4 bytes at a time
    80

    ```"""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveTensors() as live:
        call()
    return live.peak


def resident_growth(call: Callable[[], object]) -> int | None:
    """
    Bytes by which the memory of this process grows at the peak of one call, with all that libraries need inside
    themselves: unlike [`peak_memory`], what the machine must have left. Freed memory is given back before it.

    Args:
        call (`Callable`): Has been made before, so that what stays is there.

    Returns:
        `int`, *optional*: bytes; `None` where the system does not tell the peak, as Linux does.
    """
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    reset.write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes)


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as they live."""

    def __init__(self):
        super().__init__()
        self.known: dict[int, weakref.ref] = {}
        self.alive = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for storage in self._storages((args, kwargs)):
            self._remember(storage, num_bytes=0)  # a view of a weight is not memory of the call
        result = function(*args, **kwargs)
        for storage in self._storages(result):
            self._remember(storage, storage.nbytes())
        return result

    def _remember(self, storage: torch.UntypedStorage, num_bytes: int):
        key = storage._cdata
        if key in self.known:
            return

        def forget(_):
            del self.known[key]
            self.alive -= num_bytes

        self.known[key] = weakref.ref(storage, forget)
        self.alive += num_bytes
        self.peak = max(self.peak, self.alive)

    @staticmethod
    def _storages(tree) -> list[torch.UntypedStorage]:
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
