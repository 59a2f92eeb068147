"""The model card of an export, written from the run: what it learned from, how it was tested, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truepair import __version__
from truepair.config.export import Format
from truepair.exporting.model import Exportable
from truepair.exporting.written import Written
from truepair.pretrained.captions import MINILM
from truepair.pretrained.hub import network_folder
from truepair.pretrained.lite0 import NAME
from truepair.training.results import RunResults

_LICENCES = {NAME: "Apache-2.0", MINILM: "Apache-2.0"}
_HUB_NAMES = {MINILM: "sentence-transformers/all-MiniLM-L6-v2"}
_LIBRARIES: dict[Format, tuple[str, str]] = {
    "onnx": ("onnx", "feature-extraction"),
    "sentence-transformers": ("sentence-transformers", "sentence-similarity"),
    "hf": ("transformers", "feature-extraction"),
}
"""By format: ``library_name`` and ``pipeline_tag`` of the hub."""


def model_card(model: Exportable, to: Format, written: Written) -> str:
    """``README.md`` of an export, with the front matter that the hub reads.

    Nothing in it is a path of the machine that wrote it: of encoders in folders, the folder's name is given, and notes
    of the run that name a path are left out.
    """
    of_run = [note for note in model.results.notes if not {"/", "\\"} & {*note}]
    notes = "".join(f"\n{_sentence(note)}\n" for note in [*written.notes, *of_run])
    return f"""{_front_matter(model, to, written)}
# {model.recipe.method.name} on {model.results.corpus}

{_what(written)}, trained on image-caption pairs with truepair {model.results.truepair}, and exported by
truepair {__version__}.
{notes}
## How to load it

{written.load}

{_checked(written)}

## What it is

| | |
|---|---|
{_rows(_facts(model))}

## How it was tested

{_test(model.results)}
"""


def _what(written: Written) -> str:
    if len(written.sides) > 1:
        return "Image and text encoders of one space"
    return "The text encoder of a space of images and texts"


def _front_matter(model: Exportable, to: Format, written: Written) -> str:
    """YAML; its strings are written as JSON, which YAML contains."""
    library, pipeline = _LIBRARIES[to]
    names = list(dict.fromkeys(_encoders(model).values()))
    is_free = all(_LICENCES.get(name) == "Apache-2.0" for name in names)
    tags = ["truepair", "image-text-retrieval", *(["onnx"] if to == "onnx" else [])]
    values: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": pipeline,
        "tags": tags,
        "license": "apache-2.0" if is_free else "other",
    }
    if not is_free:
        values["license_name"] = "that-of-the-encoders"
    on_hub = [name for name in names if name in _HUB_NAMES or (name != NAME and network_folder(name) is None)]
    bases = [_HUB_NAMES.get(name, name) for name in on_hub]
    if bases:
        values["base_model"] = bases
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _encoders(model: Exportable) -> dict[str, str]:
    return {"pictures": model.image.name, "captions": model.text.name}


def _shown(name: str) -> str:
    """A name that says nothing of this machine."""
    folder = network_folder(name)
    return f"`{name if folder is None else folder.name}`"


def _facts(model: Exportable) -> list[tuple[str, str]]:
    results, reads = model.results, model.recipe.network
    ways = {"pictures": reads.image, "captions": reads.text}
    facts = [
        (
            f"Encoder of {what}",
            f"{_shown(name)}, {'frozen' if ways[what] == 'features' else ways[what]}; licence: "
            f"{_LICENCES.get(name, 'see the encoder')}",
        )
        for what, name in _encoders(model).items()
    ]
    pairs, best = results.pairs, results.best.epoch + 1
    counts = f"{pairs.train:,} training, {pairs.dev:,} development, {pairs.test:,} test pairs"
    return [
        *facts,
        ("Corpus", f"{results.corpus}: {counts}"),
        ("Mismatched training pairs", _noise(results)),
        ("Method", f"{results.method}, seed {results.seed}, {results.epochs} epochs, the best of them {best}"),
        ("Networks", f"{results.networks}{', whose cosines are averaged' if results.networks > 1 else ''}"),
        ("Width of a vector", f"{reads.shared if reads.codes != 'none' else reads.embedding} a network"),
    ]


def _noise(results: RunResults) -> str:
    """The protocol, and what came of it."""
    noise = results.noise
    if results.realised_noise_rate is None:
        return "none put in on purpose; how many there are is not known"
    how = f"the index {Path(noise.index).name}" if noise.index else f"rate {noise.rate:g}, seed {noise.seed}"
    level = "" if noise.index else f", {noise.level} level, {noise.partners} partners"
    return f"put in on purpose ({how}{level}); realised rate {results.realised_noise_rate:.2%}"


def _test(results: RunResults) -> str:
    """Recall of the test pairs, in percent."""
    ways = {"a picture finds captions": "image_to_text", "a caption finds pictures": "text_to_image"}
    lines = []
    for said, way in ways.items():
        recalls = [f"{getattr(results.test, f'{way}_r{k}'):.1f}" for k in (1, 5, 10)]
        lines.append(f"| {said} | {' | '.join(recalls)} |")
    protocol = results.protocol
    folds = f", in {protocol.folds} equal parts" if protocol.folds > 1 else ""
    return "\n".join(
        [
            f"On the split {protocol.split}: {protocol.images:,} pictures and {protocol.captions:,} captions{folds}. "
            f"Recall in percent; rSum {results.test.rsum:.1f}.",
            "",
            "| | R@1 | R@5 | R@10 |",
            "|---|---|---|---|",
            *lines,
        ]
    )


def _checked(written: Written) -> str:
    each = ", ".join(f"{side} {difference:.0e}" for side, difference in written.differences.items())
    return (
        "When it was written, it was loaded again and compared with the run on three pictures and three captions; "
        f"largest difference of a cosine: {each}."
    )


def _rows(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in facts)


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
