import hashlib
from dataclasses import replace
from functools import partial

import pytest
import torch

from truepair.config import (
    BaselineConfig,
    CrclConfig,
    DisnclConfig,
    MscnConfig,
    OptimisationConfig,
    Recipe,
    TeacherConfig,
    TrainingConfig,
)
from truepair.data.corpora import Corpus
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.data.pairs import Splits
from truepair.errors import CheckpointError, TrainingError
from truepair.evaluation.retrieval import evaluate
from truepair.files.checkpoint import load_checkpoint, save_checkpoint
from truepair.methods import METHODS
from truepair.training import fit as fitting
from truepair.training.fit import RunState, fit, resume
from truepair.training.log import RunLog, read_log
from truepair.training.run import run

AVERAGED = OptimisationConfig(weight_average=0.9, decay_epochs=1)
BASELINE = BaselineConfig(epochs=4, optimisation=AVERAGED)
CRCL = CrclConfig(stages=(1, 1), frozen_epochs=1, optimisation=AVERAGED)  # 4 epochs, a new stage at epoch 2
EITHER = pytest.mark.parametrize("config", [BASELINE, CRCL], ids=["baseline", "crcl"])


class Interrupted(RunLog):
    """A log whose user presses Ctrl-C after some steps of an epoch."""

    def __init__(self, folder, steps_per_line, moment):
        super().__init__(folder, steps_per_line)
        self.moment = moment

    def step(self, epoch, scalars):
        if epoch == self.moment[0]:
            if self.moment[1] == 0:
                raise KeyboardInterrupt
            self.moment[1] -= 1
        super().step(epoch, scalars)


def interrupted(epoch, step):
    return partial(Interrupted, moment=[epoch, step])


@pytest.fixture
def trained(make, fabric, world, dev_world, tmp_path):
    """A function that trains a fresh method in a folder, as a new process would; what is random there, `seed` says."""

    def train(config, folder, log=None, seed=0, pairs=world, told=None, **stop):
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        loaders = Loaders(pairs, 14, 0, torch.device("cpu"))
        method = METHODS[config.name](config, make, len(pairs), fabric)
        told = told or {"method": config.name}
        return method, fit(method, loaders, dev_world, (log or RunLog)(folder, steps_per_line=2), told, **stop)

    return train


def bits(value):
    """A value to compare by ``==``: tensors as type, shape and bytes; measured times left out."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items() if key not in ("seconds", "cpu_seconds")}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    return value


def everything(folder):
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "last": bits(load_checkpoint(folder / "last.safetensors")),
        "best": bits(load_checkpoint(folder / "best.safetensors")),
        "log": bits(read_log(folder / "log.jsonl")),
    }


@EITHER
def test_an_interrupted_run_ends_like_an_uninterrupted_one_bit_for_bit(trained, tmp_path, config):
    whole, _ = trained(config, "whole")
    for epoch, step in ((0, 2), (2, 0), (3, 1)):
        folder = f"interrupted in {epoch} at {step}"
        with pytest.raises(KeyboardInterrupt):
            trained(config, folder, log=interrupted(epoch, step))
        resumed, state = trained(config, folder, seed=0 if epoch == 0 else 12345)
        assert everything(tmp_path / folder) == everything(tmp_path / "whole")
        assert bits(resumed.state_dict()) == bits(whole.state_dict())
        assert state.epoch == 4


def test_a_run_resumed_after_each_epoch_ends_like_an_uninterrupted_one(trained, tmp_path):
    trained(CRCL, "whole")
    for epoch in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(CRCL, "parts", log=interrupted(epoch, 0))
    trained(CRCL, "parts", seed=99)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(trained, tmp_path):
    method, state = trained(CRCL, "run")
    before = everything(tmp_path / "run")
    again, state_again = trained(CRCL, "run", seed=7)
    assert everything(tmp_path / "run") == before
    assert state_again == state
    assert bits(again.state_dict()) == bits(method.state_dict())


@EITHER
def test_the_best_checkpoint_has_the_weights_and_the_score_of_its_epoch(trained, tmp_path, make, dev_world, config):
    _, state = trained(config, "run")
    best = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert best["epoch"] == state.best_epoch
    model = make()
    model.load_state_dict(best["models"][0])
    assert evaluate([model], dev_world).rsum == state.best_rsum
    scores = {line["epoch"]: rsum(line) for line in epoch_lines(tmp_path / "run") if line["stage"] == state.stage}
    assert scores[state.best_epoch] == pytest.approx(state.best_rsum)
    assert state.best_rsum == pytest.approx(max(scores.values()))
    assert state.best_epoch == min(epoch for epoch, score in scores.items() if score == max(scores.values()))


def epoch_lines(folder):
    return [line for line in read_log(folder / "log.jsonl") if line["kind"] == "epoch"]


def rsum(line):
    return sum(line[f"{way}_r{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def test_the_best_of_an_earlier_stage_is_forgotten(trained, tmp_path):
    config = CrclConfig(stages=(9, 0), frozen_epochs=1, optimisation=OptimisationConfig(learning_rate=2e-2))
    _, state = trained(config, "run")
    lines = epoch_lines(tmp_path / "run")
    assert [line["stage"] for line in lines] == [0] * 10 + [1]
    assert max(rsum(line) for line in lines[:10]) > rsum(lines[10])
    assert (state.best_epoch, state.stage) == (10, 1)
    assert state.best_rsum == pytest.approx(rsum(lines[10]))
    assert load_checkpoint(tmp_path / "run" / "best.safetensors")["epoch"] == 10


def test_epochs_without_a_better_score_end_a_run_but_not_before_its_last_stage(trained, dev_world, monkeypatch):
    method, _ = trained(replace(BASELINE, epochs=1), "none")
    same = evaluate(method.models, dev_world)
    monkeypatch.setattr(fitting, "evaluate", lambda models, pairs: same)
    long = replace(BASELINE, epochs=8)
    assert trained(long, "one", patience=2)[1].epoch == 3
    assert trained(long, "two", patience=2, before_a_stop=4)[1].epoch == 6
    assert trained(long, "two", patience=0, before_a_stop=4)[1].epoch == 8
    assert CrclConfig(stages=(2, 3, 4), frozen_epochs=1).epochs_before_a_stop(100) == 7
    assert (MscnConfig().epochs_before_a_stop(100), DisnclConfig(warmup_epochs=4).epochs_before_a_stop(100)) == (5, 4)
    assert [TeacherConfig().epochs_before_a_stop(pairs) for pairs in (100, 100_000)] == [12, 5]


@EITHER
def test_every_step_and_every_epoch_is_logged(trained, tmp_path, config):
    trained(config, "run")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["epoch"] for line in lines] == [epoch for epoch in range(4) for _ in range(3)]
    assert [line["steps"] for line in lines if line["kind"] == "steps"] == [2, 1] * 4
    seconds = [line["seconds"] for line in epoch_lines(tmp_path / "run")]
    assert seconds == sorted(seconds)


def test_a_checkpoint_of_another_configuration_is_refused(trained):
    trained(BASELINE, "run", told={"method": {"epochs": 4, "temperature": 0.05}})
    with pytest.raises(CheckpointError, match=r"another configuration \(method\.temperature: 0\.05 there, 0\.1 here\)"):
        trained(BASELINE, "run", told={"method": {"epochs": 4, "temperature": 0.1}})


def test_a_damaged_checkpoint_is_refused_and_left_alone(trained, tmp_path):
    trained(BASELINE, "run")
    last = tmp_path / "run" / "last.safetensors"
    damaged = last.read_bytes()[:-100]
    last.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*last\.safetensors"):
        trained(BASELINE, "run")
    assert last.read_bytes() == damaged


def test_a_best_checkpoint_put_in_place_of_the_last_is_refused(trained, tmp_path):
    trained(BASELINE, "run")
    (tmp_path / "run" / "best.safetensors").replace(tmp_path / "run" / "last.safetensors")
    with pytest.raises(CheckpointError, match="another configuration"):
        trained(BASELINE, "run")


@EITHER
def test_a_checkpoint_of_other_pairs_is_refused(trained, world, tmp_path, config):
    trained(config, "run")
    with pytest.raises(CheckpointError, match=r"safetensors learned from other training pairs \(40 there, 30 here"):
        trained(config, "run", pairs=world.select(torch.arange(30)))
    with pytest.raises(CheckpointError, match=r"other training pairs \(as many, 40, but not the same\)"):
        trained(config, "run", pairs=replace(world, captions=[*world.captions[:-1], "another text"]))
    last = tmp_path / "run" / "last.safetensors"
    of_before = load_checkpoint(last)
    del of_before["pairs"]
    save_checkpoint(last, of_before)
    _, state = trained(config, "run")
    assert state.epoch == 4


def test_a_checkpoint_of_another_network_is_refused(trained, tmp_path):
    method, _ = trained(BASELINE, "run")
    last = tmp_path / "run" / "last.safetensors"
    saved = load_checkpoint(last)
    del saved["method"]["network"]["image_encoder.encoder.projection.linear.weight"]
    save_checkpoint(last, saved)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit this run .*projection\.linear\.weight"):
        resume(last, method, {"method": "baseline"}, saved["pairs"])


def test_divergence_leaves_the_checkpoint_of_the_epoch_before(trained, tmp_path):
    with pytest.raises(TrainingError, match="diverged"):
        trained(replace(BASELINE, optimisation=OptimisationConfig(learning_rate=1e30)), "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_resuming_restores_epoch_and_random_generator(trained, tmp_path, make, fabric):
    method, state = trained(BASELINE, "run")
    after = torch.random.get_rng_state()
    torch.manual_seed(5)
    other = METHODS["baseline"](BASELINE, make, 40, fabric)
    last = tmp_path / "run" / "last.safetensors"
    restored = resume(last, other, {"method": "baseline"}, load_checkpoint(last)["pairs"])
    assert isinstance(restored, RunState)
    assert restored == state
    assert torch.equal(torch.random.get_rng_state(), after)
    assert bits(other.state_dict()) == bits(method.state_dict())


def test_the_test_split_has_no_influence_on_training(world, dev_world, vocabulary, small, tmp_path):
    recipe = Recipe(model=small, method=CRCL, training=TrainingConfig(batch_size=14, device="cpu"))
    noisy = inject_noise(world, 0.4, seed=0)
    results, weights = [], []
    for name, test in (("a", dev_world), ("b", inject_noise(dev_world.select(torch.arange(31)), 0.5, seed=1))):
        corpus = Corpus(Splits(noisy, dev_world, test, name), vocabulary, [])
        results.append(run(recipe, tmp_path / name, corpus))
        weights.append([hash_of(tmp_path / name / f"{which}.safetensors") for which in ("last", "best")])
    assert weights[0] == weights[1]
    assert results[0].test != results[1].test
    assert results[0].best == results[1].best
    assert results[0].detection == results[1].detection


def hash_of(checkpoint):
    """Of every tensor in a checkpoint: networks, averages, optimiser, correspondences, random generators."""
    digest = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            digest.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for item in value.values():
                add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)

    add(load_checkpoint(checkpoint))
    return digest.hexdigest()
