"""The recipes that come with truepair: named for what they do, with numbers that add up or a note that they do not."""

from pathlib import Path

import pytest

from truepair.cli.train import starting_recipe
from truepair.config import BaselineConfig
from truepair.errors import ConfigError
from truepair.training.recipe import Published, load_recipe, load_recipe_and_published

ROOT = Path(__file__).parent.parent
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.toml"))}
PUBLISHED = {name: path for name, path in RECIPES.items() if load_recipe_and_published(path)[1] is not None}

CORPORA = {"demo": "demo"} | {name: f"data/{name}_precomp" for name in ("f8k", "f30k", "coco", "cc152k")}
SIMILARITIES = {name: (name,) for name in ("cosine", "saf", "sgr")} | {"vse": ("cosine",), "sgraf": ("saf", "sgr")}
ROWS = (
    [f"crcl_sgraf_{corpus}_{rate}" for corpus in ("f30k", "coco") for rate in (20, 40, 60)]
    + ["crcl_sgraf_cc152k_natural", "baseline_sgraf_f30k_0", "baseline_sgraf_coco_0"]
    + ["baseline_sgr_f30k_20", "baseline_sgr_f30k_50", "baseline_sgr_f30k_20_clean"]
    + ["baseline_saf_cc152k_natural", "baseline_sgr_cc152k_natural", "crcl_vse_f30k_80"]
)


def sum_of(published: Published) -> float:
    return sum(published.image_to_text) + sum(published.text_to_image)


def test_every_published_row_that_truepair_can_produce_has_its_recipe():
    assert set(PUBLISHED) == set(ROWS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_name_is_its_content(name):
    recipe, published = load_recipe_and_published(RECIPES[name])
    method, similarity, corpus, noise, *oracle = name.split("_")
    assert recipe.method.name == method
    assert ((published and published.members) or (recipe.model.similarity,)) == SIMILARITIES[similarity]
    assert recipe.data.path == CORPORA[corpus]
    if corpus == "cc152k":
        assert (noise, recipe.noise.rate) == ("natural", 0)
    else:
        assert recipe.noise.rate == pytest.approx(int(noise) / 100)
    assert (recipe.training.oracle == "clean_pairs") == (oracle == ["clean"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_follows_the_protocol_of_its_corpus(name):
    recipe, _ = load_recipe_and_published(RECIPES[name])
    data, corpus = recipe.data, name.split("_")[2]
    assert data.vocabulary == f"data/vocab/{corpus}_precomp_vocab.json"
    assert data.captions_per_image == (1 if corpus == "cc152k" else 5)
    assert data.development == ("all" if corpus == "cc152k" else "first_1000_images")
    assert (data.test_split, data.test_folds) == (("testall", 5) if corpus == "coco" else ("test", 1))
    assert recipe.training.batch_size == 128
    if isinstance(recipe.method, BaselineConfig):
        assert (recipe.method.margin, recipe.method.optimisation.learning_rate) == (0.2, 2e-4)
        assert (recipe.model.region_dropping, recipe.model.word_dropping) == (0, 0)
        assert recipe.method.optimisation.weight_decay == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_printed_sum_is_that_of_the_columns_or_a_note_has_theirs(name):
    _, published = load_recipe_and_published(RECIPES[name])
    assert published is not None
    added = sum_of(published)
    assert abs(added - published.rsum) < 0.05 or f"{added:.1f}" in published.note
    recalls = (published.image_to_text, published.text_to_image)
    assert all(0 < r1 < r5 < r10 < 100 for r1, r5, r10 in recalls)


@pytest.mark.parametrize("name", PUBLISHED)
def test_docs_have_every_published_number(name):
    _, published = load_recipe_and_published(RECIPES[name])
    assert published is not None
    lines = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8").splitlines()
    assert any(f"`{name}`" in line and f"| {published.rsum:.1f} " in line for line in lines)


SECTION = (
    '[published]\nsource = "a paper"\nimage_to_text = [70, 90.5, 95]\ntext_to_image = [50, 80, 90]\nrsum = 475.5\n'
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_section_is_read_and_is_no_part_of_the_recipe(tmp_path):
    plain = load_recipe(written(tmp_path, "[noise]\nrate = 0.2\n"))
    path = written(tmp_path, SECTION + 'members = ["saf", "sgr"]\n[noise]\nrate = 0.2\n')
    assert load_recipe(path) == plain
    assert load_recipe_and_published(path) == (
        plain,
        Published("a paper", (70.0, 90.5, 95.0), (50.0, 80.0, 90.0), 475.5, ("saf", "sgr")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("published = 3", "published is 3, but it is a section: [published]"),
        (SECTION + "r_sum = 3\n", "unknown option published.r_sum; did you mean published.rsum?"),
        (SECTION.replace("rsum = 475.5", ""), "published.rsum is missing"),
        (SECTION.replace("475.5", '"475.5"'), "published.rsum is '475.5', but it must be float"),
        (SECTION.replace("70, 90.5, 95", "70, 90.5"), "published.image_to_text is (70.0, 90.5, None), but it must be"),
        (SECTION.replace("[50, 80, 90]", "80"), "published.text_to_image is 80, but it must be tuple[float, float,"),
        (SECTION + 'members = ["sgraf"]\n', "published.members is ('sgraf',), but it must be tuple[Literal['cosine',"),
        (
            SECTION + 'members = ["saf", "sgr"]\n[model]\nsimilarity = "sgr"\n',
            "model.similarity is 'sgr', but published.members (saf, sgr) says what the networks are: leave one of",
        ),
    ],
)
def test_what_is_wrong_with_a_published_section_is_named(text, message, tmp_path):
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
