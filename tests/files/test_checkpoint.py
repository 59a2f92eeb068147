import json
import pickle
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from truepair.errors import CheckpointError
from truepair.files.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from truepair.files.replacing import part_of


def identical(a, b):
    """Same structure, same types, same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


EVERYTHING = {
    "tensors": {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "integer": torch.tensor([[1], [2**40]]),
        "bool": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
    },
    "nested": [1, (2.5, None, [True, "text", ("ü",)]), {}, [], ()],
    "state": {0: {"step": torch.tensor(4.0)}, 1: {"step": torch.tensor(5.0)}},
    "floats": [0.1, 1e-300, float("inf"), 5e-4],
    "named like the format": {"tensor": "a", "dict": [["b", 1]], "list": [], "tuple": ()},
}


def test_everything_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", EVERYTHING)
    assert identical(load_checkpoint(tmp_path / "a.safetensors"), EVERYTHING)


def test_an_optimiser_comes_back_as_it_was(tmp_path):
    network = torch.nn.Linear(3, 2)
    adam = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    adam.step()
    save_checkpoint(tmp_path / "a", {"adam": adam.state_dict(), "network": dict(network.state_dict())})
    loaded = load_checkpoint(tmp_path / "a")
    assert identical(loaded["adam"], adam.state_dict())
    torch.optim.AdamW(torch.nn.Linear(3, 2).parameters()).load_state_dict(loaded["adam"])


@pytest.mark.parametrize(
    "state",
    [
        {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}},
        {"state": {1: torch.zeros(1), "1": torch.ones(1)}},
        {"a": [torch.zeros(1)], "a/0": torch.ones(1)},
    ],
)
def test_keys_that_look_alike_are_kept_apart(tmp_path, state):
    save_checkpoint(tmp_path / "a", state)
    assert identical(load_checkpoint(tmp_path / "a"), state)


def test_views_and_shared_memory_come_back_as_their_values(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": whole,
        "row": whole[1],
        "transposed": whole.T,
        "again": whole,
        "parameter": torch.nn.Parameter(whole),
    }
    save_checkpoint(tmp_path / "a", state)
    loaded = load_checkpoint(tmp_path / "a")
    assert all(torch.equal(loaded[name], value.detach()) for name, value in state.items())


def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"cannot hold set \(at /a/1\)"):
        save_checkpoint(tmp_path / "a", {"a": [1, {2, 3}]})
    assert list(tmp_path.iterdir()) == []


def test_a_newer_checkpoint_replaces_the_older_and_leaves_no_other_file(tmp_path):
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path / "a", {"value": torch.tensor(value)})
    assert load_checkpoint(tmp_path / "a")["value"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by setrlimit")
def test_a_write_that_fails_half_way_leaves_the_older_checkpoint(tmp_path):
    import resource

    path = tmp_path / "a"
    save_checkpoint(path, {"value": torch.ones(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))  # as a full disk: the first 64 KiB are written
    try:
        with pytest.raises(CheckpointError, match=r"could not save .*What was saved before is intact"):
            save_checkpoint(path, {"value": torch.ones(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert identical(load_checkpoint(path), {"value": torch.ones(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_same_state_gives_the_same_bytes(tmp_path):
    state = {"weights": {"b": torch.arange(3), "a": torch.ones(2, 2).half(), "ü": torch.zeros(1)}, "epoch": 7}
    for number in range(20):  # safetensors itself writes the header's metadata in one of two orders
        save_checkpoint(tmp_path / f"{number}", state)
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(20)}) == 1
    assert identical(load_checkpoint(tmp_path / "0"), state)
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata()["format"] == FORMAT


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="could not save"):
        save_checkpoint(tmp_path / "none" / "a", {})


def test_what_a_killed_process_left_behind_is_in_nobodys_way(tmp_path):
    part_of(tmp_path / "a").write_bytes(b"half a checkpoint")
    save_checkpoint(tmp_path / "a", {"value": 1})
    assert load_checkpoint(tmp_path / "a") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.3, 0.9, 0.9999])
def test_a_truncated_checkpoint_is_an_error(tmp_path, kept):
    path = tmp_path / "a"
    save_checkpoint(path, EVERYTHING | {"large": torch.ones(5000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 1000, b"{}", b"x" * 20, pickle.dumps({"a": 1}), json.dumps({"a": [1] * 50}).encode()],
    ids=["ones", "braces", "letters", "pickle", "json"],
)
def test_a_foreign_file_is_an_error(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "a")


def test_a_torch_file_is_refused_without_being_unpickled(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "truepair/0"}])
def test_safetensors_of_someone_else_are_an_error(tmp_path, metadata):
    save_file({"a": torch.ones(1)}, tmp_path / "a", metadata=metadata)
    with pytest.raises(CheckpointError, match=f"not a checkpoint of this version of truepair .*{FORMAT}"):
        load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("structure", [None, "[1", '{"dict": [["a", {"tensor": "/other"}]]}'])
def test_a_checkpoint_whose_parts_do_not_fit_is_an_error(tmp_path, structure):
    metadata = {"format": FORMAT} | ({} if structure is None else {"structure": structure})
    save_file({"/a": torch.ones(1)}, tmp_path / "a", metadata=metadata)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("name", ["none", "."])
def test_a_missing_file_and_a_folder_are_errors(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / name)
