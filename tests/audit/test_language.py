import pytest

from truepair.audit.language import in_other_languages
from truepair.config import DataConfig
from truepair.data.corpora import load_corpus
from truepair.data.whole import every_pair

ENGLISH = [
    f"{who} {what} {where}"
    for who in ("a black dog", "two children", "the old man")
    for what in ("is running", "sits and waits", "plays with a ball")
    for where in ("in the snow", "near the water", "on a bench", "behind the house")
]
OTHERS = {
    "de": "ein Hund läuft durch den Schnee",
    "fr": "un chien court dans la neige",
    "es": "dos niños juegan en el parque con una pelota",
    "it": "un cane corre sulla spiaggia",
    "nl": "een hond rent door de sneeuw",
    "pl": "dwa psy biegną po śniegu",
    "tr": "iki çocuk parkta oynuyor",
    "fi": "kaksi lasta leikkii puistossa",
    "Cyrillic script": "собака бежит",
    "CJK script": "犬が走る",
    "Arabic script": "كلب",
}


@pytest.mark.parametrize("language", OTHERS)
def test_a_caption_in_another_language_is_found(language):
    assert in_other_languages([*ENGLISH, OTHERS[language]]) == {len(ENGLISH): language}


def test_short_captions_and_names_are_in_no_certain_language():
    assert in_other_languages([*ENGLISH, "una casa", "Rote Blume", "Tokyo", "Café de Flore", "12:30", ""]) == {}


def test_the_corpus_may_be_in_any_language():
    german = [
        f"ein {animal} läuft schnell durch den {place}"
        for animal in ("Hund", "Wolf", "Fuchs", "Mann")
        for place in ("Schnee", "Wald", "Garten", "Park", "Regen")
    ]
    assert in_other_languages([*german, "a dog is running through the snow"]) == {20: "en"}
    russian = ["собака бежит по снегу"] * 20
    assert in_other_languages([*russian, "a dog"]) == {20: "Latin script"}


def test_a_corpus_in_several_languages_has_no_other_language():
    assert in_other_languages(ENGLISH[:20] + [OTHERS["de"]] * 10) == {}
    assert in_other_languages(ENGLISH[:20] + ["собака"] * 10) == {}
    assert in_other_languages([]) == {}


def test_a_corpus_of_few_sure_captions_has_no_language():
    assert in_other_languages([*ENGLISH[:5], OTHERS["de"]]) == {}


def test_few_captions_of_the_demo_are_called_foreign():
    captions = every_pair(load_corpus(DataConfig(path="demo")).splits).captions
    found = in_other_languages(captions)
    assert len(found) < 0.005 * len(captions)
    assert "Protection obligatoire contre les chutes" in [captions[place] for place in found]
