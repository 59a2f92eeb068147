"""Sets of recipes: those that come with truepair can all be built, and what is wrong with one of your own is told."""

import pytest

from truepair.errors import ConfigError
from truepair.training.recipe import load_recipe
from truepair.training.recipe_sets import SETS, find_set, load_set

NAMES = sorted(path.stem for path in SETS.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_comes_with_truepair_is_a_table_of_recipes_that_differ(name):
    found, files = load_set(find_set(name))
    assert found.title
    recipes = [(file.recipe, file.members) for file in files.values()]
    assert all(one not in recipes[:place] for place, one in enumerate(recipes))
    for row in found.rows:
        assert (files[row.name].published is None) >= bool(row.options), "a changed row has no published number"


def test_a_recipe_is_no_set():
    assert find_set("crcl_vse_f30k_40") is None


def test_a_set_of_ones_own_changes_options_and_may_change_the_network(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "mine"\n[[rows]]\nname = "as it is"\nrecipe = "crcl_sgraf_f30k_40"\n'
        '[[rows]]\nname = "SAF alone"\nrecipe = "crcl_sgraf_f30k_40"\n'
        'options = { "model.similarity" = "saf", "method.momentum" = 0.5 }\n'
    )
    assert find_set(path) == path
    _, files = load_set(path)
    assert files["as it is"].members == ("saf", "sgr")
    assert (files["SAF alone"].members, files["SAF alone"].recipe.model.similarity) == ((), "saf")
    assert files["SAF alone"].recipe.method.momentum == 0.5
    assert files["SAF alone"].recipe.data == load_recipe("crcl_sgraf_f30k_40").data


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("[]", "rows are missing"),
        ('[{ name = "a", recipe = "crcl_vse_f30k_40" }, { name = "a", recipe = "crcl_vse_f30k_80" }]', "rows are a, a"),
        ('[{ name = "a" }]', 'missing value for field "rows.recipe"'),
        ('[{ name = "a", recipe = "crcl_vse_f30k_41" }]', "there is no recipe crcl_vse_f30k_41"),
        ('[{ name = "a", recipe = "crcl_vse_f30k_40", options = { "method.tau" = 1 } }]', "unknown option method.tau"),
    ],
)
def test_what_is_wrong_with_a_set_is_told(rows, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'title = "mine"\nrows = {rows}\n')
    with pytest.raises(ConfigError) as error:
        load_set(find_set(path))
    assert message in str(error.value)
