"""The shards of a bulk tokenisation on Ray: one machine, or a cluster."""

import logging
import math
import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ..extras import require
from ..files import remove_left_overs
from .tokenize_dataset import ShardWriter, TokenizeJob, count, read_skipped, summary


MAX_BLOCKS = 10_000  # Ray keeps books about each
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def tokenize_on_ray(
    job: TokenizeJob,
    out: str | Path,
    device: str = "cpu",
    batch_size: int = 32,
    say: Callable[[str], object] = print,
    workers: int | None = None,
) -> dict:
    """
    [`~adatok_hf.codec.tokenize_dataset.tokenize_dataset`] with the shards handed out by Ray Data to actors, each with
    a model of its own: the same files with the same codes, and either engine goes on where the other was cut off. A
    shard whose actor dies is given to another one. The cluster is the one that `RAY_ADDRESS` names, whose nodes all
    see the data and the output folder under the same names; where it is not set, Ray is started on this machine.

    Args:
        job ([`TokenizeJob`]): What to do.
        out (`str` or `Path`): Folder of the shards; made if need be.
        device (`str`, *optional*, defaults to `"cpu"`): Where an actor encodes, `"cpu"` or `"cuda"`.
        batch_size (`int`, *optional*, defaults to 32): Images encoded together.
        say (`Callable`, *optional*): Takes a sentence about each image that is skipped.
        workers (`int`, *optional*): Actors; as many as there are GPUs, or CPUs, if not given. More of them than GPUs
            share these, so that some read pictures while others encode.

    Returns:
        `dict`: as of [`~adatok_hf.codec.tokenize_dataset.tokenize_dataset`].

    Raises:
        `ImportError`: if Ray is not installed.
        `ValueError`: as [`ShardWriter`], if the folder holds shards of another job, if the cluster cannot be reached
            or has no GPU, or if the model or the data have changed since the start.
        `OSError`: if a shard cannot be written.
    """
    require("scale", "ray")
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    write = ShardWriter(job, out, "cpu", batch_size, say)
    missing = write.missing()
    there, made = [write.path(index) for index in range(write.num_shards) if index not in missing], []
    if not missing:
        return summary(made, there)
    total = sum(len(write.images_of(index)) for index in missing)
    worker = (job, out, device, batch_size, write.facts)
    with _connect(workers), tqdm(total=total, desc="Images", unit="image", disable=None) as progress:
        for index in _run(worker, missing, _resources(device, workers)):
            made.append(count(write.path(index)))
            for image, reason in read_skipped(write.path(index)).items():
                say(f"skipped image {image}: {reason}")
            progress.update(len(write.images_of(index)))
    remove_left_overs(out)  # of actors that died while they wrote
    return summary(made, there)


class ShardWorker:
    """
    What an actor does: it loads the model with its first shard, makes shards, and hands an error back as part of a
    row, where Ray would give the tracebacks of three processes.

    Args:
        job ([`TokenizeJob`]): What to do.
        out (`Path`): Folder of the shards.
        device (`str`): Where to encode.
        batch_size (`int`): Images encoded together.
        facts (`dict`): Those of the [`ShardWriter`] that the driver has, which another model or other data do not fit.
    """

    def __init__(self, job: TokenizeJob, out: Path, device: str, batch_size: int, facts: dict):
        self.arguments, self.facts, self.write = (job, out, device, batch_size), facts, None

    def __call__(self, row: dict) -> dict:
        error = None
        try:
            self._write(row["index"])
        # Whatever it is, the driver raises it.
        except Exception as caught:
            error = caught
        return {"index": row["index"], "error": pickle.dumps(error)}

    def _write(self, index: int):
        if self.write is None:
            write = ShardWriter(*self.arguments, say=str)  # a shard says itself what it lacks
            changed = [name for name in self.facts if write.facts.get(name) != self.facts[name]]
            if changed:
                raise ValueError(
                    f"{write.job.model} or {write.job.data} has changed since the start, to another {changed[0]}; put "
                    "it back, or empty the output folder."
                )
            self.write = write
        self.write(index)


@contextmanager
def _connect(workers: int | None) -> Iterator[None]:
    """A connection to the cluster of `RAY_ADDRESS`, or a Ray of our own for as long as it is needed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data  # sets up its loggers

    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_address(address)
    # Names of sockets below it may have a hundred characters, so it does not go where other temporary files do.
    with tempfile.TemporaryDirectory(prefix="adatok-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        if address is None:
            cpus = (workers or max(torch.cuda.device_count(), os.cpu_count())) + 1
            options |= {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
        ray.init(address or "local", **options)
        try:
            yield
        finally:
            ray.shutdown()


def _check_address(address: str):
    """Raises `ValueError` unless something listens there: Ray itself tries for two minutes and ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"No Ray cluster answers at RAY_ADDRESS={address}; it is written as host:port.") from error


def _resources(device: str, workers: int | None) -> dict:
    """How many actors there are, and what each of them takes of the cluster."""
    import ray

    cluster = ray.cluster_resources()
    if device == "cpu":
        # One CPU stays free, else Ray waits for ever.
        return {"workers": workers or max(int(cluster.get("CPU", 1)) - 1, 1), "num_cpus": 1}
    gpus = int(cluster.get("GPU", 0)) or workers  # those of a cluster that grows come later
    if not gpus:
        raise ValueError("The Ray cluster has no GPU; take --device cpu, or say by --workers how many it will have.")
    workers = workers or gpus
    return {"workers": workers, "num_cpus": 1, "num_gpus": 1 / math.ceil(workers / gpus)}


def _run(worker: tuple, shards: list[int], resources: dict) -> Iterator[int]:
    """Gives the numbers of shards as they get ready; raises what hinders one."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    pool = ray.data.ActorPoolStrategy(size=resources.pop("workers"))
    rows = ray.data.from_items(
        [{"index": index} for index in shards], override_num_blocks=min(len(shards), MAX_BLOCKS)
    )
    rows = rows.map(ShardWorker, fn_constructor_args=worker, compute=pool, **resources)
    for row in rows.iter_rows():
        error = pickle.loads(row["error"])
        if error is not None:
            raise error
        yield row["index"]


__all__ = ["ShardWorker", "tokenize_on_ray"]
