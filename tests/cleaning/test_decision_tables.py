from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from truepair.cleaning.audit_folder import open_audit
from truepair.cleaning.decision_tables import check_table, read_decisions, write_decisions
from truepair.cleaning.decisions_db import HandDecision
from truepair.errors import ConfigError, DataError

HOSTILE = ["=1+1", "'=1+1x", "-3", "@me", "\tx", '=HYPERLINK("http://evil.example";"a")', "'tis", "a\nb", "k,8"]
TIME = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def audit(folder):
    """An audit whose captions and images have names that a spreadsheet takes for formulas."""
    opened = open_audit(folder)
    findings = opened.findings
    for column in ("caption_id", "image_id"):
        names = [*HOSTILE, *findings[column].to_pylist()[len(HOSTILE) :]]
        findings = findings.set_column(findings.column_names.index(column), column, pa.array(names))
    return replace(opened, findings=findings)


@pytest.fixture
def decisions():
    kept = {name: HandDecision("keep", None, TIME) for name in HOSTILE[:3]}
    return kept | {name: HandDecision("re-pair", "=1+1", TIME) for name in HOSTILE[3:]}


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.parquet"])
def test_decisions_that_are_written_are_read(audit, decisions, tmp_path, name):
    assert write_decisions(decisions, tmp_path / name, audit) == 0
    found = read_decisions(tmp_path / name, audit)
    assert {one: (hand.action, hand.image_id) for one, hand in found.items()} == {
        one: (hand.action, hand.image_id) for one, hand in decisions.items()
    }


def test_a_table_for_spreadsheets_runs_nothing_and_one_for_programs_says_what_is(audit, decisions, tmp_path):
    for name in ("a.csv", "a.parquet"):
        write_decisions(decisions, tmp_path / name, audit)
    assert '"\'=1+1","keep",""' in (tmp_path / "a.csv").read_text()
    assert pq.read_table(tmp_path / "a.parquet")["caption_id"].to_pylist() == list(decisions)


def test_decisions_about_what_the_audit_does_not_have_are_left_out_and_counted(audit, decisions, tmp_path):
    unknown = {"nobody": HandDecision("keep", None, TIME), "k,8": HandDecision("re-pair", "nobody.png", TIME)}
    assert write_decisions(decisions | unknown, tmp_path / "a.csv", audit) == 2
    assert set(read_decisions(tmp_path / "a.csv", audit)) == set(decisions) - {"k,8"}
    with pytest.raises(DataError, match="none of 2 decisions"):
        write_decisions(unknown, tmp_path / "b.csv", audit)
    assert not (tmp_path / "b.csv").exists()


def test_a_cell_that_may_mean_two_pairs_is_refused(audit, tmp_path):
    names = ["'=1+1", *audit.findings["caption_id"].to_pylist()[:-1]]
    findings = audit.findings.set_column(audit.findings.column_names.index("caption_id"), "caption_id", pa.array(names))
    (tmp_path / "a.csv").write_text("caption_id,action\n'=1+1,keep\n")
    with pytest.raises(DataError, match=r"row 1 may mean '=1\+1' or .* a \.parquet or \.jsonl table"):
        read_decisions(tmp_path / "a.csv", replace(audit, findings=findings))


@pytest.mark.parametrize("text", ["caption_id,action,image_id\n=1+1,re-pair,\n", "caption_id,action\n=1+1,re-pair\n"])
def test_a_pair_that_is_to_get_no_image_is_refused_with_what_to_fill_in(audit, tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"row 1 re-pairs '=1\+1', but its image_id is empty: fill in the image that"):
        read_decisions(tmp_path / "a.csv", audit)


def test_only_new_tables_of_two_kinds_are_written(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in '\.xlsx'; decisions are written to \.csv or \.parquet"):
        check_table(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        check_table(tmp_path / "a.csv")


def test_a_pair_that_is_to_get_the_image_that_it_has_is_refused(audit, tmp_path):
    own = audit.findings["image_id"].to_pylist()[20]
    name = audit.findings["caption_id"].to_pylist()[20]
    (tmp_path / "a.csv").write_text(f"caption_id,action,image_id\n{name},re-pair,{own}\n")
    with pytest.raises(DataError, match=f"row 1 re-pairs '{name}' with '{own}', which is its image already: keep it"):
        read_decisions(tmp_path / "a.csv", audit)
