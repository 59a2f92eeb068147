import json
import math
from pathlib import Path

from truepair.cli.output import Output, as_json


def test_lines_and_notes_are_for_people(capsys):
    output = Output()
    output.line("found")
    output.note("note: few pairs")
    output.summary({"pairs": 3})
    assert capsys.readouterr() == ("found\n", "note: few pairs\n")


def test_with_json_standard_output_is_the_summary_alone(capsys):
    output = Output(is_json=True)
    output.line("found")
    output.summary({"out": Path("audit"), "rate": math.nan, "seeds": (0, 1)})
    assert json.loads(capsys.readouterr().out) == {"out": "audit", "rate": None, "seeds": [0, 1]}


def test_with_quiet_there_are_no_notes(capsys):
    Output(is_quiet=True).note("note: few pairs")
    assert capsys.readouterr().err == ""


def test_numbers_that_json_does_not_have_are_null_wherever_they_are():
    assert as_json({1: [math.inf, {"a": -math.inf}], "b": 0.5}) == {"1": [None, {"a": None}], "b": 0.5}
