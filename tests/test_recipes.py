"""The recipes that come with truepair: named for what they do, with numbers that add up or a note that they do not."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from truepair.cli.train import starting_recipe
from truepair.config import BaselineConfig, DisnclConfig, ModelConfig, MscnConfig, OptimisationConfig
from truepair.errors import ConfigError
from truepair.training.recipe import SHIPPED, Published, RecipeFile, load_recipe, load_recipe_file, recipe_from
from truepair.training.reproduce import member_recipe

ROOT = Path(__file__).parent.parent
RECIPES = {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}
PUBLISHED = {name: path for name, path in RECIPES.items() if load_recipe_file(path).published is not None}

CORPORA = {"demo": "demo"} | {name: f"data/{name}_precomp" for name in ("f8k", "f30k", "coco", "cc152k")}
SIMILARITIES = {name: (name,) for name in ("cosine", "saf", "sgr")}
SIMILARITIES |= {"vse": ("cosine",), "clip": ("cosine",), "sgraf": ("saf", "sgr")}
NCR = "NCR (NeurIPS 2021), Tables 1-2 as shown in its repository, row "
SGRAF = "SGRAF, as listed in NCR's (NeurIPS 2021) and RCL's (TPAMI 2023) tables"
MGCS = "MGCS (AAAI 2026), Tables 2-3, row {}, marked † (run by MGCS's authors, by its account)"
PRINTED = {
    "crcl_vse_f30k_80": "55.3 82.1 89.1 39.7 68.2 77.8 412.2",
    "crcl_sgraf_f30k_20": "78.9 94.8 97.9 58.7 83.0 89.2 502.5",
    "crcl_sgraf_f30k_40": "74.1 92.6 96.9 55.5 80.9 87.6 487.6",
    "crcl_sgraf_f30k_60": "70.4 90.4 94.9 52.6 78.1 85.1 471.5",
    "crcl_sgraf_coco_20": "77.8 96.1 98.5 63.4 90.3 95.9 522.0",
    "crcl_sgraf_coco_40": "76.6 95.6 98.5 62.3 89.7 95.4 520.1",
    "crcl_sgraf_coco_60": "75.2 94.9 98.0 60.1 88.5 94.8 511.5",
    "crcl_sgraf_cc152k_natural": "41.8 67.4 76.5 41.6 68.0 78.4 373.7",
    "mscn_sgr_f30k_20": "77.4 94.9 97.6 59.6 83.2 89.2 501.9",
    "mscn_sgr_f30k_50": "74.4 93.2 96.0 55.3 80.4 86.8 486.1",
    "mscn_sgr_f30k_70": "69.0 89.3 93.0 49.2 73.1 79.0 452.6",
    "mscn_sgr_coco_50": "77.5 96.2 98.7 60.7 89.1 94.9 517.1",
    "mscn_sgr_coco_70": "74.4 94.9 97.7 58.8 87.2 93.7 506.7",
    "mscn_sgr_f30k_40": "69.5 90.8 95.7 53.2 79.9 86.4 475.5",
    "mscn_sgr_f30k_60": "68.8 88.6 93.1 48.8 76.4 84.0 459.7",
    "mscn_sgr_coco_20": "78.1 97.2 98.8 64.3 90.4 95.8 524.6",
    "mscn_sgr_coco_40": "74.5 96.0 98.1 60.8 89.0 95.0 520.3",
    "mscn_sgr_coco_60": "73.7 95.1 98.5 57.0 86.9 94.0 505.2",
    "mscn_sgr_cc152k_natural": "40.1 65.7 76.6 40.6 67.4 76.3 366.7",
    "disncl_sgr_f30k_20": "79.1 95.5 98.0 60.3 84.9 90.3 508.1",
    "disncl_sgr_f30k_40": "76.1 93.2 97.2 58.1 82.5 88.9 496.0",
    "disncl_sgr_f30k_60": "68.4 90.3 95.8 51.1 78.2 85.5 469.3",
    "disncl_sgr_coco_20": "80.4 96.4 98.9 64.8 90.8 96.1 527.4",
    "disncl_sgr_coco_40": "78.5 96.2 98.6 62.8 89.8 95.5 521.4",
    "disncl_sgr_coco_60": "76.5 95.4 98.1 60.6 88.5 94.9 514.1",
    "disncl_sgr_cc152k_natural": "42.9 68.5 76.9 43.9 69.4 77.6 379.1",
    "baseline_sgraf_f30k_0": "77.8 94.1 97.4 58.5 83.0 88.8 499.6",
    "baseline_sgraf_coco_0": "79.6 96.2 98.5 63.2 90.7 96.1 524.3",
    "baseline_sgr_f30k_20": "62.8 86.2 92.2 44.4 72.3 80.4 438.3",
    "baseline_sgr_f30k_20_clean": "72.8 90.8 95.4 56.4 82.1 88.6 486.1",
    "baseline_sgr_f30k_50": "36.9 68.1 80.2 29.3 56.2 67.0 337.7",
    "baseline_saf_cc152k_natural": "31.7 59.3 68.2 31.9 59.0 67.9 318.0",
    "baseline_sgr_cc152k_natural": "35.0 63.4 73.3 34.9 63.0 72.8 342.4",
}
"""Image → text R@1, 5, 10, text → image R@1, 5, 10 and rSum, copied from the sources once more."""


def test_every_published_row_that_truepair_can_produce_has_its_recipe():
    assert set(PUBLISHED) == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_every_digit_is_the_printed_one_and_its_source_is_told(name):
    published = load_recipe_file(RECIPES[name]).published
    numbers = (*published.image_to_text, *published.text_to_image, published.rsum)
    assert " ".join(f"{number:.1f}" for number in numbers) == PRINTED[name]
    if name.startswith("crcl_sgraf"):
        assert published.source == MGCS.format("CRCL") + "; backbone SGRAF inferred"
    elif name.startswith("mscn") and name.endswith(("_20", "_50", "_70")):
        assert published.source == "MSCN (CVPR 2023), its own row, as listed in UGNCL's Table 1"
    elif name.startswith("mscn"):
        assert published.source == MGCS.format("MSCN")
    elif name.startswith("disncl"):
        assert published.source == (
            "MGCS (AAAI 2026), Tables 2-3, row DisNCL, without a mark; backbone SGR and two networks inferred"
        )
    elif name.startswith("baseline_sgraf"):
        assert published.source == SGRAF
    elif name.startswith("baseline"):
        assert published.source.startswith(NCR)
    else:
        assert published.source.startswith("CRCL (NeurIPS 2023), quoted in https://")


@pytest.mark.parametrize("name", PRINTED)
def test_a_row_has_the_level_of_its_noise_where_papers_and_code_tell(name):
    """NCR, MGCS and CRCL's code: captions. DisNCL says nothing. Without noise there is no level."""
    method, _, _, noise, *_ = name.split("_")
    is_told = noise not in ("natural", "0") and method != "disncl"
    published = load_recipe_file(RECIPES[name]).published
    assert published.noise_level == ("caption" if is_told else None)
    assert published.noise_rate is None, "that of the recipe"


@pytest.mark.parametrize("name", PRINTED)
def test_what_made_the_published_numbers_is_repeated(name):
    """MSCN: the slip in its margin. Triplet losses: the clip of a sum over the batch, where the loss is a mean."""
    recipe = load_recipe(RECIPES[name])
    if recipe.method.name == "mscn":
        assert recipe.method.margin_of == "caption"
    if recipe.method.name == "baseline":
        assert recipe.method.optimisation.gradient_clip == 2 / recipe.training.batch_size


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_name_is_its_content(name):
    file = load_recipe_file(RECIPES[name])
    recipe = file.recipe
    method, similarity, corpus, noise, *oracle = name.split("_")
    assert recipe.method.name == method
    assert file.similarities == SIMILARITIES[similarity]
    assert recipe.data.path == ("data/f30k/dataset_flickr30k.json" if similarity == "clip" else CORPORA[corpus])
    if corpus == "cc152k":
        assert (noise, recipe.noise.rate) == ("natural", 0)
    else:
        assert recipe.noise.rate == pytest.approx(int(noise) / 100)
    assert (recipe.training.oracle == "clean_pairs") == (oracle == ["clean"])


@pytest.mark.parametrize("name", [name for name in RECIPES if not {"demo", "f8k", "clip"} & set(name.split("_"))])
def test_a_recipe_of_a_published_corpus_follows_its_protocol(name):
    recipe = load_recipe(RECIPES[name])
    data, corpus = recipe.data, name.split("_")[2]
    assert data.vocabulary == f"data/vocab/{corpus}_precomp_vocab.json"
    assert data.captions_per_image == (1 if corpus == "cc152k" else 5)
    assert data.development == ("all" if corpus == "cc152k" else "first_1000_images")
    assert (data.test_split, data.test_folds) == (("testall", 5) if corpus == "coco" else ("test", 1))
    assert recipe.training.batch_size == (64 if isinstance(recipe.method, MscnConfig) else 128)
    if isinstance(recipe.method, MscnConfig):
        assert recipe.method == MscnConfig(margin_of="caption")  # the released settings are the defaults
        assert (recipe.model.region_dropping, recipe.model.word_dropping) == (0, 0)
        assert recipe.trusted.source == {"f30k": "development", "coco": "training", "cc152k": "split"}[corpus]
    if isinstance(recipe.method, DisnclConfig):
        warmup, main = {"f30k": (5, 30), "coco": (5, 20), "cc152k": (10, 30)}[corpus]
        steps = OptimisationConfig(learning_rate=2e-4, decay_epochs=warmup + main // 2)
        assert recipe.method == DisnclConfig(networks=2, warmup_epochs=warmup, main_epochs=main, optimisation=steps)
    if isinstance(recipe.method, BaselineConfig) and name in PUBLISHED:
        assert (recipe.method.margin, recipe.method.optimisation.learning_rate) == (0.2, 2e-4)
        assert (recipe.model.region_dropping, recipe.model.word_dropping) == (0, 0)
        assert recipe.method.optimisation.weight_decay == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_printed_sum_is_that_of_the_columns_or_a_note_has_theirs(name):
    published = load_recipe_file(RECIPES[name]).published
    added = sum(published.image_to_text) + sum(published.text_to_image)
    assert abs(added - published.rsum) < 0.05 or f"{added:.1f}" in published.note


@pytest.mark.parametrize("name", PUBLISHED)
def test_docs_have_every_published_number(name):
    published = load_recipe_file(RECIPES[name]).published
    lines = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8").splitlines()
    assert any(f"`{name}`" in line and f"| {published.rsum:.1f} " in line for line in lines)


SECTION = (
    '[published]\nsource = "a paper"\nimage_to_text = [70, 90.5, 95]\ntext_to_image = [50, 80, 90]\nrsum = 475.5\n'
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_members_and_the_published_section_are_read_and_the_recipe_is_that_of_one_member(tmp_path):
    plain = load_recipe(written(tmp_path, "[noise]\nrate = 0.2\n"))
    published = Published("a paper", (70.0, 90.5, 95.0), (50.0, 80.0, 90.0), 475.5)
    path = written(tmp_path, 'members = ["saf", "sgr"]\n[noise]\nrate = 0.2\n' + SECTION)
    one = replace(plain, model=replace(plain.model, similarity="sgr"))  # which reads all that "saf" does
    assert load_recipe(path) == one
    assert load_recipe_file(path) == RecipeFile(one, ("saf", "sgr"), published)
    assert load_recipe_file(path).similarities == ("saf", "sgr")
    assert load_recipe_file(written(tmp_path, SECTION)).similarities == ("cosine",)


def test_a_row_may_have_a_rate_and_a_level_of_noise_of_its_own(tmp_path):
    file = load_recipe_file(written(tmp_path, SECTION + 'noise_rate = 0\nnoise_level = "image"\n'))
    assert (file.published.noise_rate, file.published.noise_level) == (0.0, "image")


def test_an_ensemble_needs_no_published_number(tmp_path):
    file = load_recipe_file(written(tmp_path, 'members = ["saf", "sgr"]\n[data]\npath = "mine"\n'))
    assert (file.members, file.published) == (("saf", "sgr"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("published = 3", "published is 3, but it is a section: [published]"),
        (SECTION + "r_sum = 3\n", "unknown option published.r_sum; did you mean published.rsum?"),
        (SECTION + 'members = ["saf"]\n', "unknown option published.members; "),
        (SECTION.replace("rsum = 475.5", ""), "published.rsum is missing"),
        (SECTION.replace("475.5", '"475.5"'), "published.rsum is '475.5', but it must be a number"),
        (SECTION.replace("475.5", "47550"), "published.rsum is 47550, but the sum of six percentages is in [0, 600]"),
        (SECTION.replace("70, 90.5, 95", "70, 90.5"), "published.image_to_text is (70.0, 90.5, None), but it must be"),
        (SECTION.replace("70, 90.5", "90.5, 70"), "published.image_to_text is 90.5, 70, 95, but R@1, R@5 and R@10 are"),
        (SECTION.replace("80, 90]", "80, 900]"), "published.text_to_image is 50, 80, 900, but R@1, R@5 and R@10 are"),
        (SECTION.replace("[50, 80", "[-5, 80"), "published.text_to_image is -5, 80, 90, but R@1, R@5 and R@10 are"),
        (SECTION.replace("[50, 80, 90]", "80"), "published.text_to_image is 80, but it must be a list of 3 numbers"),
        (SECTION + 'noise_level = "word"\n', "published.noise_level is 'word', but it must be"),
        (SECTION + "noise_rate = 1\n", "published.noise_rate is 1, but it is a share in [0, 1)"),
        ('members = ["sgraf"]\n', "members is ('sgraf',), but it must be a list of one of 'cosine',"),
        ('members = ["saf", "sgr", "saf"]\n', "members are saf, sgr, saf: name each once"),
        (
            'members = ["saf", "sgr"]\n[model]\nsimilarity = "sgr"\n',
            "model.similarity is 'sgr', but members (saf, sgr) says what the networks are: leave one of them out",
        ),
    ],
)
def test_what_is_wrong_with_members_or_the_published_section_is_named(text, message, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_train_refuses_a_recipe_of_several_networks_unless_one_is_named():
    path = str(RECIPES["crcl_sgraf_f30k_40"])
    with pytest.raises(
        ConfigError, match=r"stands for several networks \(saf, sgr\): .*'truepair reproduce .*40\.toml'"
    ):
        starting_recipe([path, "--out", "runs/x"])
    recipe = load_recipe(RECIPES["crcl_sgraf_f30k_40"])
    assert starting_recipe([path, "--model.similarity=sgr"]) == recipe  # the option itself is applied after this
    assert starting_recipe([path, "--help"]) == recipe
    assert starting_recipe([str(RECIPES["crcl_vse_f30k_80"])]).noise.rate == 0.8


@pytest.mark.parametrize(
    ("model", "unread"),
    [
        ({"graph_steps": 2}, "graph_steps"),
        ({"similarity": "saf", "graph_steps": 2}, "graph_steps"),
        ({"similarity": "sgr", "word_vector_dropout": 0.1}, "word_vector_dropout"),
        ({"similarity": "saf", "batch_norm_rows": "valid"}, "batch_norm_rows"),
        ({"similarity": "saf", "feature_scaling": "length"}, "feature_scaling"),
        ({"projection": "plain", "batch_norm_rows": "valid"}, "batch_norm_rows"),
        ({"similarity_size": 32}, "similarity_size"),
        ({"similarity": "saf", "head_size": 32}, "head_size"),
        ({"alignment_dropout": 0.1}, "alignment_dropout"),
        ({"exclusive_size": 8}, "exclusive_size"),
        ({"shared_size": 8}, "shared_size"),
    ],
)
def test_an_option_that_the_backbone_does_not_read_is_refused(model, unread):
    with pytest.raises(ConfigError) as error:
        recipe_from({"method": {"name": "crcl"}, "model": model}, "mine.toml")
    assert str(error.value).startswith(f"mine.toml: model.{unread} is {model[unread]!r}, but a network with ")


def test_an_option_that_the_method_makes_the_backbone_read_is_taken():
    assert recipe_from({"method": {"name": "mscn"}, "model": {"similarity_size": 32}}, "").model.similarity_size == 32
    assert recipe_from({"method": {"name": "disncl"}, "model": {"exclusive_size": 8}}, "").model.exclusive_size == 8


def test_the_default_methods_own_backbone_is_no_reason_to_refuse_another_similarity():
    recipe = recipe_from({"model": {"similarity": "saf"}}, "")
    assert recipe_from(json.loads(json.dumps(asdict(recipe))), "run.json") == recipe


def test_a_member_leaves_out_what_only_the_other_reads(tmp_path):
    path = written(tmp_path, 'members = ["saf", "sgr"]\n[model]\ngraph_steps = 2\n')
    recipe = load_recipe(path)
    assert member_recipe(recipe, "sgr", 0).model.graph_steps == 2
    assert member_recipe(recipe, "saf", 0).model.graph_steps == ModelConfig().graph_steps


def test_a_noise_index_that_is_typed_takes_the_place_of_a_recipes_rate():
    assert starting_recipe(["crcl_cosine_demo_40"]).noise.rate == 0.4
    assert starting_recipe(["crcl_cosine_demo_40", "--noise.index", "a.npy"]).noise.rate == 0.0
    assert starting_recipe(["crcl_cosine_demo_40", "--noise.index=a.npy", "--noise.rate", "0.2"]).noise.rate == 0.4
