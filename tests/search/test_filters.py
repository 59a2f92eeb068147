import pyarrow as pa
import pytest

from truepair.errors import ConfigError
from truepair.search.columns import _scalars
from truepair.search.filters import filtered

TABLE = pa.table(
    {
        "width": [100, 200, 300, None],
        "name": ["a dog", "it's", "100%", "cat"],
        "is_blank": [True, False, False, False],
        "two words": [1.5, -2.0, 0.0, 3.0],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("width > 100", [1, 2]),
        ("width >= 100 AND width <> 200", [0, 2]),
        ("width IS NULL or name = 'it''s'", [1, 3]),
        ("width is not null and not (width = 100 or width = 200)", [2]),
        ("name like '%o%'", [0]),
        ("name not like '%a%' and width in (200, 300)", [1, 2]),
        ("name NOT IN ('cat')", [0, 1, 2]),
        ("width not in (100, 200)", [2]),  # where there is no value, it is not known
        ("not width in (100, 200)", [2]),
        ("is_blank = true", [0]),
        ('"two words" < -1', [1]),
        ('"two words" = 1.5', [0]),
    ],
)
def test_a_filter_means_what_it_means_in_sql(text, rows):
    assert filtered(TABLE, text).to_pylist() == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a column was expected, not the end"),
        ("width >", "a number, a 'text', TRUE or FALSE was expected"),
        ("width > 3 name = 'a'", "the end was expected, not 'name'"),
        ("read_csv('/etc/passwd')", "there is no column 'read_csv'"),
        ("width > (select 1)", "was expected, not '\\('"),
        ("name = 'a'; drop table images", "is not read"),
        ("height > 3", "no column 'height'; there are width, name"),
        ("name > 3", "cannot be compared"),
        ("width in (1, 'a')", "cannot be compared"),
        ("width in (true, 1)", "cannot be compared"),
        ("width > 100000000000000000000000000000", "cannot be compared"),
        ("(" * 200 + "width > 3" + ")" * 200, "more than 50 conditions inside each other"),
        ("name = 'open", "is not read"),
    ],
)
def test_what_is_no_filter_is_refused_in_a_sentence(text, said):
    with pytest.raises(ConfigError, match=said):
        filtered(TABLE, text)


def test_a_missing_column_is_told_in_one_sentence():
    with pytest.raises(ConfigError) as told:
        filtered(TABLE, "height > 3")
    assert "cannot be compared" not in str(told.value)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-20", None], pa.int64()),
        (["1", "2.5", "1e3"], pa.float64()),
        (["007", "010"], pa.string()),
        (["0", "0.5"], pa.float64()),
        (["1234567890123456781", "1234567890123456790"], pa.int64()),
        (["12345678901234567812345", "1"], pa.string()),
        (["0.84739473827482939", "0.1"], pa.float64()),
        (["+1", "2"], pa.string()),
        (["1", "a"], pa.string()),
    ],
)
def test_text_that_is_all_numbers_becomes_numbers_that_say_the_same(texts, kind):
    assert _scalars(texts).type == kind
