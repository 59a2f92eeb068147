"""Every writer owns what it writes, and is refused where another one is at it; nothing is read, trained or drawn."""

import pytest
from owned_elsewhere import owned_elsewhere

from truepair.audit.run import audit_pairs
from truepair.cli.main import AFTER_A_STOP, COMMANDS
from truepair.config import AuditConfig, DataConfig, Recipe
from truepair.data.noise import inject_noise, write_noise_index
from truepair.errors import ConfigError
from truepair.figures.page import draw_figures
from truepair.files.locking import alone_in, alone_with
from truepair.training.recipe import RecipeFile, load_recipe_file
from truepair.training.reproduce import reproduce
from truepair.training.run import run
from truepair.training.sweep import sweep

WRITERS = {
    "audit": lambda out, pairs: audit_pairs(pairs, None, out, AuditConfig()),
    "train": lambda out, pairs: run(Recipe(DataConfig("nowhere.csv")), out),
    "sweep": lambda out, pairs: sweep([], out),
    "reproduce": lambda out, pairs: reproduce(_recipe(), out, (0,)),
    "figures": lambda out, pairs: draw_figures([], out, pairs=0, rate=0.4, seed=0),
}


def _recipe() -> RecipeFile:
    return load_recipe_file("crcl_cosine_demo_40")


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_writer_is_refused_and_told_who_is_there(tmp_path, vector_world, name):
    out = tmp_path / "out"
    with owned_elsewhere(alone_in(out)):
        with pytest.raises(ConfigError, match=r"another process is writing .*out: wait for it .* \(process \d+ on "):
            WRITERS[name](out, vector_world)
        assert [path.name for path in out.iterdir()] == [".lock"]


def test_so_is_a_second_writer_of_a_file(tmp_path, vector_world):
    pairs = inject_noise(vector_world, 0.3, 0)
    with (
        owned_elsewhere(alone_with(tmp_path / "index.npy")),
        pytest.raises(ConfigError, match=r"another process is writing .*index.npy"),
    ):
        write_noise_index(tmp_path / "index.npy", pairs)
    write_noise_index(tmp_path / "index.npy", pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["index.npy"]


def test_what_is_said_after_a_stop_is_said_of_every_command_and_only_those_go_on_that_do():
    assert AFTER_A_STOP.keys() == COMMANDS.keys()
    goes_on = {name for name, said in AFTER_A_STOP.items() if "goes on from what was saved last" in said}
    assert goes_on == {"demo", "train", "reproduce", "evaluate", "embed", "sweep"}
