"""Captions in another language than the corpus: by their script, and by py3langid where the script is the corpus's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from truepair.audit.caption_text import script_of

_SURE = 0.8
"""Probability of a language from which on a caption counts as being in it; most captions of a few words stay below."""
_MAJORITY = 0.8
"""Share of the captions that one script or language must have, or the corpus is in several, which is no issue."""
_FEWEST = 20
"""Captions whose language must be sure, or the corpus's language is unknown."""


def in_other_languages(captions: Sequence[str]) -> dict[int, str]:
    """Captions in another language than most: their places, and what they are in, such as "Cyrillic script" or "de".

    Only what is sure is said: most captions of one or two words are in no certain language. The corpus's language is
    the one of at least 80 % of the captions that are sure; a corpus in several languages has no such captions.
    """
    scripts = [script_of(caption) for caption in captions]
    main_script = _majority([script for script in scripts if script is not None])
    if main_script is None:
        return {}
    found = {
        place: f"{script.capitalize() if script != 'CJK' else script} script"
        for place, script in enumerate(scripts)
        if script not in (None, main_script)
    }
    classify = _identifier().classify
    languages = [(place, *classify(captions[place])) for place, script in enumerate(scripts) if script == main_script]
    sure = [(place, language) for place, language, probability in languages if probability >= _SURE]
    main_language = _majority([language for _, language in sure]) if len(sure) >= _FEWEST else None
    if main_language is not None:
        found |= {place: language for place, language in sure if language != main_language}
    return dict(sorted(found.items()))


def _majority(kinds: Sequence[str]) -> str | None:
    """The kind of at least `_MAJORITY` of all; None if there is none."""
    most, count = Counter(kinds).most_common(1)[0] if kinds else ("", 0)
    return most if count and count >= _MAJORITY * len(kinds) else None


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
