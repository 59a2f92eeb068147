"""The training loop: iterate, log, evaluate on the development split, save; resumes by itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from truepair import processes
from truepair.data.loader import Loaders
from truepair.data.pairs import Pairs
from truepair.errors import CheckpointError
from truepair.evaluation.retrieval import evaluate
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.methods.protocol import Method
from truepair.progress import progress
from truepair.training.frozen_epochs import Seen
from truepair.training.log import RunLog
from truepair.training.pair_state import histograms


@dataclass
class RunState:
    """What a resumed run needs beside the method's own state.

    Attributes:
        epoch: Epochs done.
        batches: Batches done of the epoch after them.
        lines: Lines of the log about that epoch.
        stage: The method's stage after them.
        best_rsum: Best development rSum of that stage, in [0, 600].
        best_epoch: The epoch that reached it, from 0; -1 if none yet.
        seconds: Wall time of the epochs done, evaluation included.
        cpu_seconds: The same in processor time of this process.
        lost: Of pairs whose pictures could not be decoded, by their numbers as text, why.
    """

    epoch: int = 0
    batches: int = 0
    lines: int = 0
    stage: int = 0
    best_rsum: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    lost: dict[str, str] = field(default_factory=dict)


def fit(
    method: Method,
    loaders: Loaders,
    dev: Pairs,
    log: RunLog,
    config: Mapping[str, Any],
    patience: int = 0,
    checkpoint_steps: int = 0,
    frozen: int = 0,
    before_a_stop: int = 0,
) -> RunState:
    """Train `method` to its last epoch, or from where a run in the log's folder stopped.

    Writes ``last.safetensors`` (everything, after every epoch, and within epochs where asked for) and
    ``best.safetensors`` (the weights with the best development rSum of the current stage). Killed at any moment, the
    same call goes on from what was saved last and ends with the same weights, bit for bit on a CPU.

    Args:
        method: What to train; on return it holds the last epoch's state.
        loaders: Training batches.
        dev: Development pairs: the only ones that the choice of a checkpoint sees.
        log: Where scalars go; its folder is the run's.
        config: All options that decide what is learned, to refuse a checkpoint of another run.
        patience: Stop when development rSum has not improved for this many epochs; 0 never does.
        checkpoint_steps: Also save after every so many steps of an epoch; 0 never does.
        frozen: Epochs at the beginning in which pretrained networks are frozen (``model.projection_epochs``).
        before_a_stop: Epochs at the beginning over which patience is not lost (``epochs_before_a_stop`` of the method's
            options).

    Returns:
        The final state of the run; the same on every process, of which the first writes.

    Raises:
        CheckpointError: See `resume`; also if not all processes find the same checkpoint.
    """
    last, best = (log.path.with_name(f"{name}.safetensors") for name in ("last", "best"))
    _refuse_another_start(last)
    described = {"count": len(loaders.pairs), "digest": loaders.pairs.digest().hex()}
    state = resume(last, method, config, described) if last.exists() else RunState()
    loaders.lost = {int(pair): why for pair, why in state.lost.items()}
    log.rewind(state.epoch, state.lines)
    at_start = random_state()
    steps, seen, clock = loaders.batches_per_epoch(), Seen(loaders, dev, frozen), _Clock()
    total, done = method.epochs * steps, state.epoch * steps + state.batches
    with progress("training", "steps", total, done) as shown:
        for epoch in range(state.epoch, method.epochs):
            if patience and epoch > max(state.best_epoch, frozen - 1, before_a_stop - 1) + patience:
                break
            begun = shown.done - state.batches
            shown.describe(f"epoch {epoch + 1}/{method.epochs}")
            learned, judged = seen.at(epoch, method.models)
            learned.begin_epoch(state.batches, partial(set_random_state, at_start))
            for step, scalars in enumerate(method.train_epoch(epoch, learned), 1):
                log.step(epoch, scalars)
                shown.advance()
                if checkpoint_steps and step % checkpoint_steps == 0:
                    state.batches, state.lines = learned.position, log.flush(epoch)
                    clock.add_to(state)
                    _save_on_first(last, state, loaders, method, config, described)
            # A method may choose its pairs, and so have fewer steps.
            shown.total = shown.done + (method.epochs - epoch - 1) * (shown.done - begun)
            metrics = evaluate(method.models, judged)
            _keep_best(best, state, epoch, processes.of_first(metrics.rsum), method)
            state.epoch, state.batches, state.lines = epoch + 1, 0, 0
            clock.add_to(state)
            log.epoch(
                epoch,
                {"stage": state.stage, "seconds": state.seconds, **metrics.as_dict()},
                histograms(method.pair_state, loaders.pairs.is_clean),
            )
            shown.remark = f"development rSum {metrics.rsum:.1f}, best {state.best_rsum:.1f}"
            _save_on_first(last, state, loaders, method, config, described)
    return state


class _Clock:
    """Wall time, and processor time of this process, since it was last read."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add_to(self, state: RunState) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        state.seconds += wall - self._wall
        state.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu


def _keep_best(path: Path, state: RunState, epoch: int, rsum: float, method: Method) -> None:
    """The weights, if no epoch of the method's present stage was better."""
    if method.stage != state.stage:
        state.stage, state.best_rsum = method.stage, -1.0  # a fresh network: the old one's best is void
    if rsum > state.best_rsum:
        state.best_rsum, state.best_epoch = rsum, epoch
        if processes.is_first():
            save_checkpoint(path, {"epoch": epoch, "models": [model.state_dict() for model in method.models]})


def _save_on_first(
    path: Path,
    state: RunState,
    loaders: Loaders,
    method: Method,
    config: Mapping[str, Any],
    pairs: Mapping[str, Any],
) -> None:
    """See `save`; on the first process."""
    if processes.is_first():
        lost = {str(pair): why for pair, why in loaders.lost.items()}
        save(path, replace(state, lost=lost), method, config, pairs)


def _refuse_another_start(last: Path) -> None:
    """Processes that go on from different checkpoints, by their sizes, would wait for each other."""
    size = last.stat().st_size if last.exists() else None
    other = processes.different({"size": str(size).encode()})
    if other:
        raise CheckpointError(
            f"process {other['size']} does not find the checkpoint {last} as process 0 does: the run's folder must lie "
            "on a file system that all nodes see, under the same path"
        )


def save(path: Path, state: RunState, method: Method, config: Mapping[str, Any], pairs: Mapping[str, Any]) -> None:
    """Write everything that `resume` needs; `pairs` tells the training pairs from others."""
    progress = {"config": dict(config), "pairs": dict(pairs), "state": asdict(state), "method": method.state_dict()}
    save_checkpoint(path, progress | {"random": random_state()})


def random_state() -> dict[str, Any]:
    """The states of torch's global generators, from which weights, dropout and augmentation are drawn."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(random: Mapping[str, Any]) -> None:
    """Put torch's global generators where `random_state` found them."""
    torch.set_rng_state(random["cpu"])
    cuda = random["cuda"]
    if processes.count() > 1:  # the generator of process 0, whose device is the first, is that of every process
        cuda = cuda[:1] * torch.cuda.device_count()
    for device, generator in enumerate(cuda[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)  # of the GPUs that are here: a run may go on where there is none


def resume(path: Path, method: Method, config: Mapping[str, Any], pairs: Mapping[str, Any]) -> RunState:
    """Put `method` and the random generators where the checkpoint at `path` left them.

    Raises:
        CheckpointError: If the checkpoint is damaged or was made with another configuration or from other pairs.
    """
    saved = load_checkpoint(path)
    if saved.get("config") != dict(config):
        raise CheckpointError(
            f"{path} was made with another configuration ({'; '.join(differences(saved.get('config'), config))}). "
            "Choose a new folder for this run, or delete the old one"
        )
    known = saved.get("pairs", pairs)  # checkpoints of earlier versions do not say
    if known != pairs:
        there, here = known["count"], pairs["count"]
        how = f"as many, {here:,}, but not the same" if there == here else f"{there:,} there, {here:,} here"
        raise CheckpointError(
            f"{path} learned from other training pairs ({how}): bring back the data as they were, choose a new folder "
            "for this run, or delete the old one"
        )
    try:
        method.load_state_dict(saved["method"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this run ({error}): have the data changed since? Choose a new folder, or delete it"
        ) from error
    set_random_state(saved["random"])
    return RunState(**saved["state"])


def differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two configurations differ, as ``name: saved → wanted``."""
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        keys = dict.fromkeys([*saved, *wanted])
        return [
            text
            for key in keys
            for text in differences(saved.get(key), wanted.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if saved == wanted else [f"{name}: {saved!r} there, {wanted!r} here"]
