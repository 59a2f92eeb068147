"""The shards of a source over the nodes of a Ray cluster; parts on disk say what is done, and Ray keeps none of it."""

from __future__ import annotations

import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from truepair.config.embedding import EmbedConfig
from truepair.embedding.choosing import load_encoders
from truepair.embedding.plan import EncodedBy
from truepair.embedding.shard import embed_shard
from truepair.embedding.store import finished_part
from truepair.errors import ConfigError, DataError, TruepairError
from truepair.files.replacing import put_in_place
from truepair.progress import Progress, progress
from truepair.sources.opening import reopened

_SECONDS_BETWEEN_LOOKS = 5.0
"""How often nodes are sought that joined the cluster, or whose worker was lost."""
_MOST_LOSSES = 3
"""A shard that ended so many workers is given up, and so is a place where so many ended before they had begun."""
_SECONDS_TO_APPEAR = 60
"""Network file systems may show what another node wrote only after a while."""
_OBJECT_STORE = 100 * 2**20
"""Bytes, where Ray is started here: nothing but names and counts goes through it."""


def embed_on_ray(
    description: Mapping[str, Any], folders: Mapping[str, Path], config: EmbedConfig, begin: Callable[[], None]
) -> EncodedBy:
    """Encode the shards whose parts are still to do, on all nodes of the cluster.

    A shard whose worker was lost goes to another one. Nodes that join later get work too.

    Args:
        description: What opens the source (see `truepair.sources.opening.description_of`), on every node.
        folders: The part of each shard, on a file system that all nodes see.
        config: Encoders and resources.
        begin: Is called when the first worker has loaded the encoders, before any shard.

    Returns:
        What encoded.

    Raises:
        ConfigError: If Ray is not installed, a worker cannot start, or workers would encode in different ways.
        DataError: If a node cannot read the source, a shard ended several workers, no node is left, or a part that a
            worker wrote is not seen here.
    """
    names = {folder.name for folder in folders.values()}
    for parent in {folder.parent for folder in folders.values() if folder.parent.exists()}:
        for found in list(parent.iterdir()):
            if found.suffix and found.name.partition(".")[0] in names:  # of a worker that was lost
                shutil.rmtree(found)
    with _cluster(), progress("embedding", "images") as shown:
        return _Embedding(dict(description), folders, config, begin, shown).run()


@contextmanager
def _cluster() -> Iterator[None]:
    """The cluster that runs, or one on this machine until the block ends."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine is 'ray', but Ray is not installed: pip install 'truepair[ray]'") from error
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="warning")
    except ConnectionError:
        options = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        ray.init(address="local", log_to_driver=False, logging_level="warning", **options)
    try:
        yield
    finally:
        ray.shutdown()


class _Worker:
    """An actor that holds the source and the encoders, which it loads itself: no weights pass through Ray."""

    def __init__(self, description: Mapping[str, Any], config: EmbedConfig, cores: int) -> None:
        torch.set_num_threads(cores)
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="decode")
        self._fault: TruepairError | None = None
        try:
            self._source = reopened({**description, "cache_size": config.source.cache_size})
            self._encoders, self._by = load_encoders(config)
        except TruepairError as error:
            self._fault = error  # an actor that fails here dies, and takes the reason with it

    def encoded_by(self) -> EncodedBy:
        """What it encodes with."""
        if self._fault is not None:
            raise self._fault
        return self._by

    def embed(self, shard: str, folder: Path) -> None:
        """Encode a shard in a folder of its own, and move it to its place unless a worker given up for lost did."""
        own = folder.with_name(f"{folder.name}.{uuid4().hex[:8]}")
        embed_shard(self._source.read(shard), own, self._encoders, self._pool, lambda images: None)
        try:
            put_in_place(own, folder)
        except OSError:
            if finished_part(folder) is None:
                raise
            shutil.rmtree(own)


@dataclass(frozen=True)
class _Place:
    """Where a worker can be: so many cores and GPUs of a node."""

    node: str
    address: str
    number: int
    cores: int
    gpus: int


@dataclass(frozen=True)
class _Job:
    """What a worker is at: a shard, or loading its encoders (None)."""

    place: _Place
    worker: Any
    shard: str | None


class _Embedding:
    """Shards that wait, and workers that are at one, at their encoders, or idle in case that one comes back."""

    def __init__(
        self,
        description: dict[str, Any],
        folders: Mapping[str, Path],
        config: EmbedConfig,
        begin: Callable[[], None],
        shown: Progress,
    ) -> None:
        self._description = description
        self._folders = {shard: folder.absolute() for shard, folder in folders.items()}
        self._config = config
        self._begin = begin
        self._shown = shown
        self._by: EncodedBy | None = None
        self._waiting = deque[str]()
        self._done = 0
        self._jobs: dict[Any, _Job] = {}
        self._idle: list[_Job] = []
        self._losses = Counter[object]()

    def run(self) -> EncodedBy:
        """Until every part is there."""
        import ray

        for shard, folder in self._folders.items():
            if not self._is_counted(folder):
                self._waiting.append(shard)
        try:
            while self._by is None or self._waiting or any(job.shard is not None for job in self._jobs.values()):
                self._hire()
                ready, _ = ray.wait(list(self._jobs), timeout=_SECONDS_BETWEEN_LOOKS)
                for answer in ready:
                    self._take(self._jobs.pop(answer), answer)
                while self._waiting and self._idle:
                    self._give(self._idle.pop(), self._waiting.popleft())
        finally:
            for job in (*self._jobs.values(), *self._idle):
                _dismiss(job.worker)
        return self._by

    def _hire(self) -> None:
        """Start as many workers as there is work and room for."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        taken = {job.place for job in (*self._jobs.values(), *self._idle)}
        loading = sum(job.shard is None for job in self._jobs.values())
        places = [place for place in _places(self._config) if self._losses[place] < _MOST_LOSSES]
        if not places and not self._jobs:
            raise DataError("no node of the Ray cluster can run a worker; when one can, the same command goes on")
        free = [place for place in places if place not in taken]
        for place in free[: max(len(self._waiting) - loading, self._by is None and not self._jobs)]:
            worker = (
                ray.remote(_Worker)
                .options(
                    num_cpus=place.cores,
                    num_gpus=place.gpus,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
                )
                .remote(self._description, self._config, place.cores)
            )
            self._jobs[worker.encoded_by.remote()] = _Job(place, worker, None)

    def _take(self, job: _Job, answer: Any) -> None:
        """See what came of a job."""
        import ray

        try:
            by = ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # the job failed, as it would have here
            raise _reason(error, job.place) from error
        except ray.exceptions.RayError as error:  # the worker or its node is gone
            self._lose(job, error)
            return
        if job.shard is None:
            self._welcome(by, job.place)
        else:
            self._see(job.shard, job.place)
        self._idle.append(job)

    def _give(self, job: _Job, shard: str) -> None:
        """Let the worker of a job that is done encode a shard."""
        self._jobs[job.worker.embed.remote(shard, self._folders[shard])] = replace(job, shard=shard)

    def _lose(self, job: _Job, error: Exception) -> None:
        """Put the shard of a lost worker in front of those that wait."""
        if getattr(error, "actor_init_failed", False):
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(f"no worker can start on node {job.place.address}: {last}") from error
        _dismiss(job.worker)  # one that only cannot be reached must not go on
        self._losses[job.place if job.shard is None else job.shard] += 1
        if job.shard is None:
            return
        self._waiting.appendleft(job.shard)
        if self._losses[job.shard] == _MOST_LOSSES:
            raise DataError(
                f"{_MOST_LOSSES} workers were lost while they encoded shard {job.shard!r}, the last on node "
                f"{job.place.address} ({str(error).strip().splitlines()[0]}): is its memory enough for --batch-size "
                f"{self._config.batch_size}?"
            ) from error

    def _welcome(self, by: EncodedBy, place: _Place) -> None:
        """Begin with the first worker; refuse one that encodes otherwise."""
        if self._by is None:
            self._by = by
            self._begin()
        elif (by.image_encoder, by.text_encoder) != (self._by.image_encoder, self._by.text_encoder):
            raise ConfigError(
                f"node {place.address} would encode with {by.image_encoder} and {by.text_encoder}, but others do with "
                f"{self._by.image_encoder} and {self._by.text_encoder}: install the same packages, and give --device"
            )

    def _see(self, shard: str, place: _Place) -> None:
        """Count a part that a worker says it wrote."""
        folder, until = self._folders[shard], time.monotonic() + _SECONDS_TO_APPEAR
        while not self._is_counted(folder):
            if time.monotonic() > until:
                raise DataError(
                    f"node {place.address} wrote {folder}, which is not seen here: choose a folder that all share"
                )
            time.sleep(1.0)

    def _is_counted(self, folder: Path) -> bool:
        """Whether a part is there; then it is counted."""
        part = finished_part(folder)
        if part is None:
            return False
        self._done += 1
        self._shown.total = round((self._shown.done + part.images) / self._done * len(self._folders))
        self._shown.advance(part.images)
        return True


def _places(config: EmbedConfig) -> list[_Place]:
    """Room for workers in the cluster as it is now: one a GPU, else one a node, or one for so many cores."""
    import ray

    places = []
    for node in ray.nodes():
        cores, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if not node["Alive"] or cores == 0:
            continue
        uses_gpus = gpus > 0 and config.device in ("auto", "cuda")
        wanted = config.workers or (max(cores // gpus, 1) if uses_gpus else cores)
        wanted = min(wanted, cores)
        count = min(cores // wanted, gpus) if uses_gpus else cores // wanted
        places += [
            _Place(node["NodeID"], node["NodeManagerAddress"], number, wanted, int(uses_gpus))
            for number in range(count)
        ]
    return places


def _reason(error: Any, place: _Place) -> Exception:
    """The error of a job, as it was raised."""
    cause: Exception = error.cause
    if isinstance(cause, TruepairError):
        return type(cause)(f"{cause} (on node {place.address})")
    return cause


def _dismiss(worker: Any) -> None:
    import ray

    with suppress(Exception):  # it may be gone
        ray.kill(worker)
