import json
from dataclasses import asdict, replace

import pytest

from truepair.config import (
    BaselineConfig,
    CrclConfig,
    ModelConfig,
    MscnConfig,
    NoiseConfig,
    OptimisationConfig,
    Recipe,
    TeacherConfig,
    TrustedConfig,
)
from truepair.errors import ConfigError
from truepair.training.recipe import METHOD_CONFIGS, SHIPPED, find_recipe, load_recipe, recipe_from, recipe_of_run

RECIPES = sorted(SHIPPED.glob("*.toml"))


def test_an_option_that_a_nested_section_does_not_say_has_the_methods_default():
    recipe = recipe_from({"method": {"name": "mscn", "optimisation": {"learning_rate": 1e-3}}}, "here")
    assert recipe.method.optimisation == replace(MscnConfig().optimisation, learning_rate=1e-3)
    assert recipe.method.optimisation.weight_decay == 0


def test_a_method_that_trusts_pairs_refuses_what_does_not_go_with_that():
    with pytest.raises(ConfigError, match=r"noise\.index numbers all training pairs, but trusted\.source = 'training'"):
        Recipe(noise=NoiseConfig(index="noise.npy"), trusted=TrustedConfig(source="training"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_truepair_can_be_read(path):
    recipe = load_recipe(path)
    assert path.stem.startswith(f"{recipe.method.name}_")


def test_nothing_said_is_the_default_method_with_its_backbone():
    default = recipe_from({}, "here")
    assert default == Recipe(model=TeacherConfig.default_model)
    assert default.method == TeacherConfig()
    some = recipe_from({"model": {"input_dropout": 0.1}}, "here")
    assert (some.model.input_dropout, some.model.word_vectors) == (0.1, "captions")
    assert recipe_from({"method": {"name": "crcl"}}, "here").model == ModelConfig()


def test_every_section_is_read(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        """
        [data]
        path = "photos.csv"
        source.caption_col = ["text"]
        [noise]
        rate = 0.4
        [model]
        embedding = 64
        [method]
        name = "crcl"
        stages = [2, 3]
        momentum = 1
        optimisation.learning_rate = 1e-3
        [training]
        batch_size = 32
        """,
        encoding="utf-8",
    )
    recipe = load_recipe(path)
    assert recipe.data.path == "photos.csv"
    assert recipe.data.source.caption_col == ("text",)
    assert recipe.noise == NoiseConfig(rate=0.4)
    assert recipe.model.embedding == 64
    assert recipe.method == CrclConfig(stages=(2, 3), momentum=1.0, optimisation=OptimisationConfig(learning_rate=1e-3))
    assert recipe.training.batch_size == 32
    assert isinstance(recipe.method.momentum, float)


@pytest.mark.parametrize("config", METHOD_CONFIGS.values(), ids=METHOD_CONFIGS.keys())
def test_a_recipe_survives_json(config):
    recipe = Recipe(method=config(), noise=NoiseConfig(rate=0.2, level="image"))
    assert recipe_from(json.loads(json.dumps(asdict(recipe))), "run.json") == recipe


def test_the_name_chooses_the_method():
    assert recipe_from({"method": {"name": "baseline", "epochs": 3}}, "here").method == BaselineConfig(epochs=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "unknown option modle; did you mean model?"),
        ({"method": {"name": "crcl", "stage": [1]}}, "unknown option method.stage; did you mean method.stages?"),
        ({"data": {"source": {"image_cal": "x"}}}, "unknown option data.source.image_cal; did you mean data.source.im"),
        ({"training": {"zzz": 1}}, "unknown option training.zzz; there are batch_size, seed, "),
        ({"method": {"name": "baseline", "stages": [1]}}, "unknown option method.stages; there are name, loss, epochs"),
        ({"method": {"name": "magic"}}, "unknown method 'magic'; choose one of baseline, crcl, disncl"),
        ({"method": {"name": ["crcl"]}}, "unknown method ['crcl']; choose one of"),
        ({"method": "crcl"}, "method is 'crcl', but it is a section"),
        ({"data": "photos.csv"}, "data is 'photos.csv', but it is a section: [data]"),
        ({"method": {"optimisation": 3}}, "method.optimisation is 3, but it is a section: [method.optimisation]"),
        ({"training": {"batch_size": "64"}}, "training.batch_size is '64', but it must be a whole number"),
        ({"training": {"batch_size": 64.0}}, "training.batch_size is 64.0, but it must be a whole number"),
        ({"method": {"name": "crcl", "stages": 5}}, "method.stages is 5, but it must be a list of whole numbers"),
        ({"method": {"name": "crcl", "stages": [5.5]}}, "method.stages is (5.5,), but it must be a list of whole"),
        ({"noise": {"level": "word"}}, "noise.level is 'word', but it must be one of 'caption', 'image'"),
        ({"noise": {"rate": 1.0}}, "noise.rate is 1.0"),
        ({"noise": {"rate": 0.2, "index": "a.npy"}}, "noise.rate is 0.2 and noise.index is a.npy: choose one"),
        ({"noise": {"seed": -1}}, "noise.seed is -1"),
        ({"model": {"embedding": 0}}, "model.embedding is 0"),
        ({"model": {"word_dropping": 1.0}}, "model.word_dropping is 1.0"),
        ({"method": {"name": "crcl", "momentum": 1.5}}, "method.momentum is 1.5"),
        ({"method": {"name": "crcl", "threshold": -0.1}}, "method.threshold is -0.1"),
        ({"method": {"temperature": 0}}, "method.temperature is 0.0"),
        ({"method": {"name": "crcl", "stages": []}}, "method.stages is ()"),
        (
            {"method": {"name": "crcl", "stages": [3, 0], "frozen_epochs": 0}},
            "a stage of method.stages (3, 0) has no epoch",
        ),
        ({"method": {"optimisation": {"learning_rate": float("nan")}}}, "optimisation.learning_rate is nan"),
        ({"method": {"optimisation": {"weight_average": 1.0}}}, "optimisation.weight_average is 1.0"),
        ({"method": {"optimisation": {"weight_decay": -1.0}}}, "optimisation.weight_decay is -1.0"),
        ({"method": {"name": "baseline", "epochs": 0}}, "method.epochs is 0"),
        ({"training": {"batch_size": 1}}, "training.batch_size is 1"),
        ({"training": {"seed": -1}}, "training.seed is -1"),
        ({"training": {"workers": -1}}, "training.workers is -1"),
        ({"training": {"oracle": "true_correspondence"}}, 'training.oracle = "true_correspondence" keeps given'),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value),
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ConfigError) as error:
        recipe_from(values, "here.toml")
    assert str(error.value).startswith(f"here.toml: {message}")


def test_a_recipe_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no recipe .*none\.toml: name a \.toml file"):
        load_recipe(tmp_path / "none.toml")


def test_a_recipe_that_comes_with_truepair_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("crcl_vse_f30k_40", "crcl_vse_f30k_40.toml"):
        assert find_recipe(name) == SHIPPED / "crcl_vse_f30k_40.toml"
    (tmp_path / "crcl_vse_f30k_40.toml").write_text("", encoding="utf-8")  # a file that is here comes first
    assert load_recipe("crcl_vse_f30k_40.toml") == recipe_from({}, "here")
    (tmp_path / "mscn_sgr_f30k_20").mkdir()  # for instance the folder of its own run
    assert load_recipe("mscn_sgr_f30k_20").method.name == "mscn"
    with pytest.raises(ConfigError, match=r"no recipe crcl_vse_f30k_4O: .* such as crcl_vse_f30k_"):
        load_recipe("crcl_vse_f30k_4O")
    with pytest.raises(ConfigError, match="no recipe elsewhere/crcl_vse_f30k_40"):
        load_recipe("elsewhere/crcl_vse_f30k_40")


@pytest.mark.parametrize("content", [b"[data\npath = 1", b'path = "\xff"', b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_an_error(tmp_path, content):
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*r\.toml"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path)


def test_a_run_is_read_whatever_the_default_of_an_option_was_that_its_networks_do_not_read():
    recipe = Recipe(method=CrclConfig())
    values = asdict(recipe)
    values["model"]["tower_learning_rate_factor"] = 0.123
    assert recipe_of_run(values, "run.json") == recipe
    with pytest.raises(ConfigError, match=r"tower_learning_rate_factor is 0\.123, but .* does not read it"):
        recipe_from(values, "a recipe")
    values["model"]["embedding"] = 0
    with pytest.raises(ConfigError, match=r"model\.embedding is 0"):
        recipe_of_run(values, "run.json")
