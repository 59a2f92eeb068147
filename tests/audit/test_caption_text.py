import pytest

from truepair.audit.caption_text import is_boilerplate, markup_in, mojibake_in, script_of


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("photo.jpeg", True),
        ("DSC 1234", True),
        ("Screenshot 2024-01-05 12.30.11", True),
        ("[image]", True),
        ("No description.", True),
        ("www.example.com/a", True),
        ("image of a dog", False),
        ("photograph by Ann", False),
        ("two logos", False),
        ("犬が走る", False),
    ],
)
def test_boilerplate(caption, expected):
    assert is_boilerplate(caption) is expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Tom &amp; Jerry", "&amp;"),
        ("it&#39;s a dog", "&#39;"),
        ("caf&eacute;", "&eacute;"),
        ("&#x1F600; smile", "&#x1F600;"),
        ("two dogs<br />one cat", "<br />"),
        ('<a href="https://a.example">a dog</a>', '<a href="https://a.example">'),
        ("</p>", "</p>"),
        ("a cat & a dog; both run", None),
        ("AT&T; a logo", None),
        ("I <3 dogs > cats", None),
        ("<person> at <b", None),
        ("x<y and y>z", None),
    ],
)
def test_html_is_what_a_browser_would_not_show(caption, expected):
    assert markup_in(caption) == expected


@pytest.mark.parametrize(
    "text", ["café", "l’été à Paris", "“quoted”", "Straße", "Größe", "niño", "100 °C", "€ 5", "собака", "犬", "🐶"]
)
@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_utf_8_that_was_read_as_something_else_is_mojibake(text, codec):
    broken = "".join(
        bytes([byte]).decode(codec, "ignore") or chr(byte)  # Windows-1252 leaves five bytes as they are
        for byte in text.encode()
    )
    assert mojibake_in(f"a picture: {broken}") is not None
    assert mojibake_in(f"a picture: {text}") is None


@pytest.mark.parametrize(
    "caption",
    [
        "a plain caption",
        "«CAFÉ» à Paris",
        "São João, Âmbar, PÂTÉ",
        "Ça va? Où est l’œuvre « d’art »?",
        "30° – 40 °C, £5, ½ cup, naïve façade",
        "“NÃO” e “MANHÔ",
        "Đà Nẵng, Việt Nam",
        "Größe: 5 × 7 µm²",
    ],
)
def test_honest_letters_with_accents_are_no_mojibake(caption):
    assert mojibake_in(caption) is None


def test_a_replacement_character_is_mojibake():
    assert mojibake_in("caf\ufffd noir") == "\ufffd"


@pytest.mark.parametrize(
    ("caption", "script"),
    [
        ("a dog", "LATIN"),
        ("Đà Nẵng", "LATIN"),
        ("собака", "CYRILLIC"),
        ("猫が寝ている", "CJK"),
        ("ネコ", "CJK"),
        ("كلب", "ARABIC"),
        ("개", "HANGUL"),
        ("a dog, собака", "CYRILLIC"),
        ("12:30 🐶", None),
    ],
)
def test_the_script_is_that_of_most_letters(caption, script):
    assert script_of(caption) == script
