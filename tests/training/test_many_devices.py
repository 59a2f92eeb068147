"""Several processes with a share of each batch give what one process with the whole batch gives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from together import end, environment, start, together
from torch.nn.functional import dropout

import truepair
from truepair import processes
from truepair.cli.main import main
from truepair.cli.output import Output, process_number
from truepair.config import (
    BaselineConfig,
    CrclConfig,
    DisnclConfig,
    ModelConfig,
    MscnConfig,
    OptimisationConfig,
    Recipe,
    TeacherConfig,
    TrainingConfig,
)
from truepair.data.batch import Padded
from truepair.data.corpora import Corpus
from truepair.data.loader import Loaders
from truepair.data.noise import inject_noise
from truepair.data.pairs import Splits
from truepair.errors import ConfigError
from truepair.files.checkpoint import load_checkpoint
from truepair.files.locking import alone_in
from truepair.in_parts import encoded
from truepair.methods.crcl import Crcl
from truepair.model import InputShape, make_model
from truepair.training.device import make_fabric, training_fabric
from truepair.training.log import RunLog, read_log
from truepair.training.run import build_method, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

CPU = TrainingConfig(device="cpu")
AVERAGED = OptimisationConfig(weight_average=0.9)
WITHOUT_DROPPING = {"embedding": 12, "word_size": 6, "region_dropping": 0.0, "word_dropping": 0.0}
NORMALISED = ModelConfig(**WITHOUT_DROPPING)
PLAIN = replace(NORMALISED, projection="plain")
LOCAL = {"similarity_size": 6, "alignment_dropout": 0.0, **WITHOUT_DROPPING}
TRUSTING = {"warmup_epochs": 1, "warmup_batch_size": 16, "meta_batch_size": 6, "optimisation": AVERAGED}
CODED = {"warmup_epochs": 1, "main_epochs": 1, "critics_from": 1, "optimisation": AVERAGED}
TAUGHT = TeacherConfig(
    epochs=1, fold_epochs=1, warmup_epochs=1, judge_every=1, target_weight=1.0, optimisation=AVERAGED
)
METHODS_ON_BACKBONES = {
    "baseline": (BaselineConfig(epochs=2, optimisation=AVERAGED), NORMALISED),
    "triplet": (BaselineConfig(epochs=2, loss="triplet_hardest"), ModelConfig("saf", **LOCAL)),
    "crcl": (CrclConfig(stages=(1, 1), frozen_epochs=1, optimisation=AVERAGED), ModelConfig("sgr", **LOCAL)),
    "mscn": (MscnConfig(purified_epochs=2, **TRUSTING), NORMALISED),
    "mscn, exactly": (MscnConfig(purified_epochs=1, mixed_derivative="backward", **TRUSTING), PLAIN),
    "disncl": (DisnclConfig(networks=2, **CODED), PLAIN),
    "disncl, local": (DisnclConfig(**CODED), ModelConfig("saf", **LOCAL)),
    "teacher": (TAUGHT, replace(PLAIN, words="mean")),
}


@dataclass(frozen=True)
class Doubled:
    """Features in double precision."""

    inputs: object

    def __len__(self):
        return len(self.inputs)

    def take(self, rows):
        items = self.inputs.take(rows)
        return Padded(items.values.double(), items.lengths)


@pytest.fixture
def doubled(world, dev_world, vocabulary):
    """Noisy pairs and trusted ones in double precision."""
    noisy = inject_noise(world, 0.4, 0)
    pairs = replace(noisy, images=Doubled(noisy.images))
    trusted = replace(dev_world, images=Doubled(dev_world.images)).select(torch.arange(8))
    return pairs, trusted, vocabulary


def make_doubled(*options):
    return make_model(*options).double()


def built(*options):
    """A method in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        method = build_method(*options)
    finally:
        torch.set_default_dtype(torch.float32)
    if isinstance(method, Crcl):
        method.correspondence = method.correspondence.double()
    return method


def learned(name, doubled, batch_size=9, encode_at_once=0):
    """All that a method knows after its last epoch, and what its steps logged."""
    config, model = METHODS_ON_BACKBONES[name]
    pairs, trusted, vocabulary = doubled
    with training_fabric(CPU) as fabric, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*collapsed at epoch")  # tiny codes of a tiny world
        torch.manual_seed(0)
        make = partial(make_doubled, config.network(model), InputShape.of(pairs, vocabulary))
        method = built(config, make, len(pairs), fabric)
        loaders = Loaders(pairs, batch_size, 0, fabric.device, trusted=trusted, encode_at_once=encode_at_once)
        log = [dict(step) for epoch in range(method.epochs) for step in method.train_epoch(epoch, loaders)]
        return {"log": log, "state": method.state_dict(), "pairs": dict(method.pair_state)}


def assert_same(found, expected, tolerance=1e-10):
    torch.testing.assert_close(flat(found), flat(expected), rtol=tolerance, atol=tolerance, equal_nan=True)


def flat(value, name=""):
    """Every number of nested values by its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: torch.as_tensor(value)} if isinstance(value, torch.Tensor | float | int) else {}
    return {place: one for key, item in items for place, one in flat(item, f"{name}/{key}").items()}


@pytest.mark.parametrize("name", METHODS_ON_BACKBONES)
def test_two_processes_learn_what_one_learns(name, doubled, tmp_path):
    expected = learned(name, doubled)
    first, second = together(lambda rank: learned(name, doubled), tmp_path)
    assert len(expected["log"]) >= 10
    assert_same(first, expected)
    assert_same(second, first, tolerance=0.0)


@pytest.mark.parametrize("name", ["mscn, exactly", "disncl", "teacher"])
def test_a_batch_that_is_encoded_in_parts_teaches_the_same(name, doubled):
    expected = learned(name, doubled, batch_size=19)
    assert_same(learned(name, doubled, batch_size=19, encode_at_once=4), expected)


def test_processes_may_encode_their_shares_in_parts(doubled, tmp_path):
    expected = learned("teacher", doubled, batch_size=19)
    for found in together(lambda rank: learned("teacher", doubled, batch_size=19, encode_at_once=4), tmp_path):
        assert_same(found, expected)


def test_a_batch_of_fewer_pairs_than_processes_is_encoded_by_all_alike(doubled, tmp_path):
    expected = learned("baseline", doubled, batch_size=38)  # and a batch of 2
    for found in together(lambda rank: learned("baseline", doubled, batch_size=38), tmp_path, 3):
        assert_same(found, expected)


def test_processes_drop_other_values_and_draw_the_same_numbers_afterwards(world, tmp_path):
    def drawn(rank):
        with training_fabric(CPU) as fabric:
            fabric.seed_everything(0, verbose=False)
            batch = next(Loaders(world, 8, 0, fabric.device).train(0))
            ones = Padded(torch.ones(4, 50))
            unchanged = torch.get_rng_state()
            encoded(torch.nn.Identity(), ones, batch)
            assert torch.equal(torch.get_rng_state(), unchanged), "nothing was drawn"
            dropped = encoded(lambda items: Padded(dropout(items.values)), ones, batch)
            return {"dropped": dropped.values, "drawn": torch.rand(3)}

    first, second = together(drawn, tmp_path)
    assert_same(first, second, tolerance=0.0)
    assert first["dropped"].shape == (8, 50)
    assert not torch.equal(first["dropped"][:4], first["dropped"][4:])


CRCL = CrclConfig(stages=(1, 1), frozen_epochs=1, optimisation=AVERAGED)
FILES = ["best.safetensors", "last.safetensors", "log.jsonl", "pairs.parquet", "results.json", "run.json"]


@pytest.fixture
def recipe(small):
    """With everything that draws random numbers switched on."""
    return Recipe(model=small, method=CRCL, training=TrainingConfig(batch_size=9, device="cpu"))


@pytest.fixture
def corpus(world, dev_world, vocabulary):
    return Corpus(Splits(inject_noise(world, 0.4, 0), dev_world, dev_world, "the world"), vocabulary, [])


def outcome(folder):
    last, best = (load_checkpoint(folder / f"{name}.safetensors") for name in ("last", "best"))
    return {"method": last["method"], "random": last["random"], "best": best}


def kill_one(recipe, corpus, folder, told):
    """A run of two processes, of which one is killed in epoch 2; what the other says."""

    def step(self, epoch, scalars):
        if epoch == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    def killed(rank):
        RunLog.step = step  # of this process, which is a fork
        return run(recipe, folder, corpus)

    told.mkdir()
    assert end(start(killed, told, 2)) == [1, -signal.SIGKILL]
    assert load_checkpoint(folder / "last.safetensors")["state"]["epoch"] == 2
    return (told / "0.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_to_the_same_bits(recipe, corpus, tmp_path):
    def run_in(name):
        return together(lambda rank: run(recipe, tmp_path / name, corpus).as_dict(), tmp_path / f"told of {name}")

    first, second = run_in("whole")
    assert first == second
    said = kill_one(recipe, corpus, tmp_path / "killed", tmp_path / "told")
    assert re.fullmatch(
        r"TrainingError: process 0 of 2 lost the others \([^()]*\): one of them ended or does not answer, and .*", said
    )
    run_in("killed")
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"), tolerance=0.0)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [*FILES, "vocabulary.json"]
    epochs = [line["epoch"] for line in read_log(tmp_path / "killed" / "log.jsonl") if line["kind"] == "epoch"]
    assert epochs == [0, 1, 2, 3]


def test_a_run_goes_on_with_another_number_of_processes(recipe, corpus, tmp_path):
    recipe = replace(recipe, model=PLAIN)
    alone = run(recipe, tmp_path / "alone", corpus)
    kill_one(recipe, corpus, tmp_path / "run", tmp_path / "told")
    assert run(recipe, tmp_path / "run", corpus).epochs == alone.epochs
    found, expected = outcome(tmp_path / "run"), outcome(tmp_path / "alone")
    assert_same(found["method"]["network"], expected["method"]["network"], tolerance=1e-4)
    assert_same(found["method"]["correspondence"], expected["method"]["correspondence"], tolerance=1e-4)


def said_by_each(work, folder, count=2, tell=environment):
    folder.mkdir(exist_ok=True)
    assert end(start(work, folder, count, tell)) == [1] * count
    return [(folder / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(count)]


def test_processes_that_see_other_captions_are_refused(recipe, corpus, tmp_path):
    train = corpus.splits.train
    changed = replace(train, captions=["a blue cow", *train.captions[1:]])
    other = replace(corpus, splits=replace(corpus.splits, train=changed))
    said = said_by_each(lambda rank: run(recipe, tmp_path / "run", other if rank else corpus), tmp_path / "told")
    for rank, text in enumerate(said):
        assert text.startswith(
            f"DataError: process 1 of 2 has other training pairs than process 0 (this is process {rank}, on "
        )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_in_use_stops_all_processes(recipe, corpus, tmp_path):
    with alone_in(tmp_path / "run"):
        said = said_by_each(lambda rank: run(recipe, tmp_path / "run", corpus), tmp_path / "told")
    assert said[0].startswith(f"ConfigError: another process is writing {tmp_path / 'run'}")
    assert said[1].startswith(f"TrainingError: process 0 cannot go on: another process is writing {tmp_path / 'run'}")


def test_a_folder_that_one_process_does_not_see_is_refused(recipe, corpus, tmp_path):
    said = said_by_each(lambda rank: run(recipe, tmp_path / str(rank), corpus), tmp_path / "told")
    assert all(text.startswith("CheckpointError: process 1 does not find ") for text in said)
    assert all("run.json as process 0 wrote it: the run's folder must lie on a file system" in text for text in said)


def test_a_checkpoint_that_one_process_does_not_see_is_refused(recipe, corpus, tmp_path):
    run(recipe, tmp_path / "0", corpus)
    (tmp_path / "1").mkdir()
    shutil.copy(tmp_path / "0" / "run.json", tmp_path / "1")
    said = said_by_each(lambda rank: run(recipe, tmp_path / str(rank), corpus), tmp_path / "told")
    assert all(text.startswith("CheckpointError: process 1 does not find the checkpoint") for text in said)


def test_processes_that_would_learn_from_other_pairs_are_refused(world, tmp_path):
    def train(rank):
        with training_fabric(CPU) as fabric:
            return next(Loaders(world, 8, 0, fabric.device).train(0, torch.arange(10 + rank)))

    assert all(text.startswith("TrainingError: process 1 would learn") for text in said_by_each(train, tmp_path))


@pytest.mark.parametrize(("how", "is_refused"), [("frozen", True), ("full", False)])
def test_frozen_networks_with_other_weights_are_refused(tmp_path, how, is_refused):
    pytest.importorskip("transformers", reason="needs the extra hf")
    from tiny_networks import save_bert

    from truepair.encoders.finetuning import TowerEncoder, Tuning
    from truepair.encoders.projection import VectorEncoder
    from truepair.encoders.towers import load_text_tower

    folder = save_bert(tmp_path / "bert")

    def begun(rank):
        tower = load_text_tower(folder)
        with torch.no_grad():
            next(tower.parameters()).add_(rank)
        encoder = TowerEncoder(tower, VectorEncoder(tower.width, 4), Tuning(how, 0.1, 0.5, 2, (), checkpoints=False))
        with training_fabric(CPU) as fabric:
            fabric.setup_module(encoder)
            return {"weights": next(tower.parameters()).detach()}

    if is_refused:
        for rank, text in enumerate(said_by_each(begun, tmp_path / "told")):
            said = "process 1 has a pretrained network with other weights than process 0 (this is process"
            assert text.startswith(f"DataError: {said} {rank}): ")
    else:
        assert_same(*together(begun, tmp_path / "together"), tolerance=0.0)


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", timedelta(seconds=1))

    def silent(rank):
        with training_fabric(CPU):
            if rank:
                time.sleep(2)
            return processes.summed(torch.ones(1))

    said = said_by_each(silent, tmp_path)
    assert said[0].startswith("TrainingError: process 0 of 2 lost the others")


def of_slurm(rank, count, port):
    numbers = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": count, "SLURM_NTASKS_PER_NODE": count}
    names = {"SLURM_NODEID": 0, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    return {name: str(value) for name, value in (numbers | names | {"MASTER_PORT": port}).items()}


def test_half_precision_is_shared_too(recipe, corpus, tmp_path):
    training = replace(recipe.training, precision="bf16-mixed")
    recipe = replace(recipe, model=NORMALISED, training=training, method=BaselineConfig(epochs=1))
    run(recipe, tmp_path / "alone", corpus)
    together(lambda rank: run(recipe, tmp_path / "run", corpus).test.rsum, tmp_path / "told")
    alone, both = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("alone", "run"))
    assert both["loss"] == pytest.approx(alone["loss"], rel=0.01)
    assert both["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=0.02)


def test_slurm_starts_processes_too(recipe, corpus, tmp_path):
    recipe = replace(recipe, training=replace(recipe.training, devices=2))
    results = together(lambda rank: run(recipe, tmp_path / "run", corpus).hardware, tmp_path / "told", 2, of_slurm)
    assert results[0].startswith("2 processes: ")
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("training", "started", "told"),
    [
        (
            {"devices": 2},
            0,
            "one process was started: .*'torchrun --standalone --nproc-per-node 2 -m truepair train …'",
        ),
        ({"devices": 4, "nodes": 3}, 0, "torchrun --nnodes 3 --rdzv-endpoint HOST:PORT --nproc-per-node 4 -m truepair"),
        (
            {"devices": 4},
            2,
            "training.devices is 4 and training.nodes 1, but torchrun started 2 processes on each of 1",
        ),
        ({"batch_size": 3}, 4, "training.batch_size is 3, but 4 devices share a batch"),
        ({"device": "cuda"}, 2, "training.devices is 2 and training.nodes 1, which cannot be had with training.device"),
    ],
)
def test_devices_that_are_not_there_are_refused(training, started, told, monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    for name, value in (environment(0, started, 1) if started else {}).items():
        monkeypatch.setenv(name, value)
    if torch.cuda.is_available() and training.get("device") == "cuda":
        pytest.skip("there may be two")
    with pytest.raises(ConfigError, match=told), training_fabric(TrainingConfig(**training)):
        pass


def test_a_network_that_normalises_over_the_batch_cannot_encode_it_in_parts():
    training = TrainingConfig(encode_at_once=8)
    with pytest.raises(ConfigError, match=r"training\.encode_at_once is 8, .* use model.similarity 'cosine' with"):
        Recipe(model=NORMALISED, method=CRCL, training=training)
    with pytest.raises(ConfigError, match="encode_at_once is 8"):
        Recipe(model=replace(PLAIN, similarity="sgr", projection="batch_norm"), method=CRCL, training=training)
    assert Recipe(model=PLAIN, method=CRCL, training=training).training.encode_at_once == 8


def test_other_commands_are_not_for_torchrun(monkeypatch, capsys):
    for name, value in environment(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["audit", "photos.csv"]) == 2
    assert capsys.readouterr().err == "truepair: torchrun is for 'truepair train': start 'truepair audit' without it\n"


def test_a_process_that_is_not_the_first_says_which_it_is_and_prints_no_result(monkeypatch, capsys, tmp_path):
    for name, value in environment(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(tmp_path / "none.csv"), "--out", str(tmp_path / "run"), "--devices", "3"]) == 1
    assert capsys.readouterr().err.startswith("truepair (process 1): error: --devices is 3 and --nodes 1, but torchrun")
    Output(is_first=process_number() == 0).line("a result")
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_torchrun_starts_the_command_and_the_first_process_speaks(tmp_path):
    source = str(Path(truepair.__file__).parents[1])
    options = [
        "--method.name",
        "baseline",
        "--method.epochs",
        "1",
        "--model.embedding",
        "8",
        "--device",
        "cpu",
        "--json",
    ]
    train = ["-m", "truepair", "train", "demo", "--out", str(tmp_path / "run"), *options]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [sys.executable, *launch, *train],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads(process.stdout)["hardware"].startswith("2 processes: ")
    assert [line.partition(":")[0] for line in process.stderr.splitlines()] == ["note"]  # one epoch taught nothing yet


def test_a_task_of_slurm_that_computes_by_itself_is_the_first_and_has_a_device(monkeypatch):
    names = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train.sh", "SLURM_NTASKS": 4, "SLURM_PROCID": 3, "SLURM_LOCALID": 3}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    assert make_fabric("cpu").global_rank == 0
    assert (process_number(), process_number(by_slurm=True)) == (0, 3)
