import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import Positional

from truepair.cli.main import COMMANDS, main
from truepair.cli.parsing import Flat, flags_in, options_of, parse
from truepair.config import AuditConfig, DataConfig, NoiseConfig
from truepair.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    """Scoring."""

    share: float = 0.5
    """Share of pairs. More is slower; less is quicker."""
    kind: Literal["fast", "slow"] = "fast"
    """How to score."""
    words: tuple[str, ...] = ("a", "b")
    """Words to look for."""
    image_col: str = "image"
    """The column of the image."""

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}, but it is a share in [0, 1]")


@dataclass(frozen=True)
class Made:
    """Score pairs.

    In detail.

    For example:
      truepair made pairs.csv --out scores/
    """

    target: Positional[str]
    """A table."""
    out: Path
    """The folder to write to."""
    again: bool = False
    """Once more."""
    open: bool = True
    """Open the page."""
    inner: Flat[Inner] = field(default_factory=Inner)
    """How pairs are scored."""
    other: Inner = field(default_factory=Inner)
    """How others are scored."""


def parsed(*arguments, **named):
    return parse(Made, "made", arguments, main=("target", "out", "share", "open"), **named)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parsed(*arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    first, *others = shown.err.splitlines()
    assert others == ["see 'truepair made --help'"]
    return first.removeprefix("truepair: error: ")


def test_options_of_a_flat_section_have_no_prefix_and_those_of_others_have():
    made = parsed("pairs.csv", "--out", "o", "--share", "0.25", "--other.share", "0.75", "--words", "x", "--no-open")
    assert made == Made("pairs.csv", Path("o"), False, False, Inner(0.25, words=("x",)), Inner(0.75))


def test_an_option_has_one_name(capsys):
    told = refused(capsys, "p", "--out", "o", "--inner.share", "0.25")
    assert told == "there is no option --inner.share; did you mean --share?"


def test_values_to_start_from_stand_where_no_option_is_given():
    start = {"inner": Inner(0.125, "slow")}
    made = parsed("pairs.csv", "--out", "o", "--share", "0.25", start=start)
    assert made.inner == Inner(0.25, "slow")
    assert isinstance(made, Made)


def test_a_wrong_option_is_answered_with_the_nearest_one(capsys):
    assert refused(capsys, "p", "--out", "o", "--shaer", "1") == "there is no option --shaer; did you mean --share?"
    assert (
        refused(capsys, "p", "--out", "o", "--qqq") == "there is no option --qqq; 'truepair made --help-all' lists all"
    )


def test_a_value_of_the_wrong_kind_is_said_in_a_line(capsys):
    assert refused(capsys, "p", "--out", "o", "--share", "much") == "--share is 'much', but it takes a number"
    assert "'quick'" in refused(capsys, "p", "--out", "o", "--kind", "quick")
    assert refused(capsys, "p", "--out", "o", "--again=1") == "--again takes no value"


def test_what_is_missing_is_said_with_what_it_is(capsys):
    assert refused(capsys, "p") == "--out PATH is missing: The folder to write to."
    assert refused(capsys, "--out", "o") == "TARGET is missing: A table."


def test_a_word_too_many_is_named(capsys):
    assert "'q'" in refused(capsys, "p", "q", "--out", "o")
    assert refused(capsys, "p", "--out", "o", "--again", "true") == "--again takes no value: leave 'true' out"


def test_a_configs_own_refusal_names_the_flag(capsys):
    assert refused(capsys, "p", "--out", "o", "--share", "2") == "--share is 2.0, but it is a share in [0, 1]"


def test_help_has_the_main_options_in_a_sentence_and_help_all_has_all(capsys):
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            parsed(flag)
        assert stop.value.code == 0
        shown[flag] = capsys.readouterr().out
    assert shown["--help"] == (
        "usage: truepair made TARGET --out PATH [options]\n"
        "\n"
        "Score pairs.\n"
        "\n"
        "For example:\n"
        "  truepair made pairs.csv --out scores/\n"
        "\n"
        "  TARGET          A table\n"
        "  --out PATH      The folder to write to\n"
        "  --share NUMBER  Share of pairs. More is slower; less is quicker (default: 0.5)\n"
        "  --[no-]open     Open the page (default: yes)\n"
        "--help-all shows all 14 options\n"
    )
    assert "In detail." in shown["--help-all"]
    assert "How others are scored.\n  --other.share NUMBER" in shown["--help-all"]
    assert "(default: a b)" in shown["--help-all"]
    assert "--json" in shown["--help-all"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_fits_a_screen(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_of_every_command_explains_every_option(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    assert "--quiet" in capsys.readouterr().out
    module = import_module(f"truepair.cli.{command}")
    options = options_of(getattr(module, command.capitalize()), {})
    assert [option.name for option in options if not option.help] == []
    assert {*module.MAIN} <= {option.name for option in options}, "the main options are options"
    assert len({option.name for option in options}) == len(options), "no two sections share a name"


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "photos.csv", "--out", "s3://bucket/features"],
        ["fix", "audit", "--out=gs://bucket/cleaned/"],
        ["fix", "hf://datasets/a/b", "--out", "cleaned"],
    ],
)
def test_what_is_written_or_audited_is_not_in_a_store(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "://" in said
    assert "must be on this machine" in said


def test_issues_that_there_are_not_are_wrong_use(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fix", "audit", "--out", "cleaned", "--drop-issues", "blank", "typo"])
    assert ended.value.code == 2
    assert "there is no issue 'typo' to drop; there are blank, tiny, placeholder" in capsys.readouterr().err


def test_a_switch_takes_no_value(capsys):
    for word, written in (("false", "write --method.no-refine"), ("true", "leave 'true' out")):
        with pytest.raises(SystemExit) as ended:
            main(["train", "crcl_cosine_demo_40", "--method.refine", word, "--out", "x"])
        assert ended.value.code == 2
        assert f"--method.refine takes no value: {written}" in capsys.readouterr().err


def test_help_answers_at_once():
    command = [sys.executable, "-m", "truepair", "audit", "--help"]
    subprocess.run(command, capture_output=True, check=True)  # compiles, where that is kept
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0


def test_messages_name_the_flag_to_type_instead_of_the_name_in_a_config():
    assert (
        flags_in("audit.re_pair_threshold is 2, but training.seed is 1") == "--re-pair-threshold is 2, but --seed is 1"
    )
    assert flags_in("raise data.test_folds, not noise.rate") == "raise --test-folds, not noise.rate"


@pytest.mark.parametrize("text", ["cannot read data.csv", "see runs/training.log", "my_data.path", "../data.path"])
def test_names_of_files_stay_as_they_are_in_messages(text):
    assert flags_in(text) == text


def test_flat_sections_of_an_audit_do_not_shadow_each_other():
    names = [option.name for config in (AuditConfig, DataConfig, NoiseConfig) for option in options_of(config, {})]
    audit = options_of(import_module("truepair.cli.audit").Audit, {})
    assert {"threshold", "re-pair", "seed", "device", "noise.seed", "model.embedding"} <= {one.name for one in audit}
    assert "path" in names
    assert "path" not in {option.name for option in audit}, "it is the target"
