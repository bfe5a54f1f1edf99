"""The paper's numbers as transcribed, against values read again from its text, and the sense of the tables."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from crrl.methods import METHODS
from crrl.recipes import preset
from crrl.reproduction.paper import TARGETS, Column, PaperName, columns_of, paper_number

VALUES = [
    ("table1", "CRRL (Ours)", "ntu60", "C-View", 73.8),
    ("table1", "3s-CrosSCLR(LSTM) [53]", "ntu60", "C-Sub", 62.8),
    ("table1", "MS2L [14]", "ntu60", "C-View", None),
    ("table2", "RotClips+MTCNN [64]", "ntu120", "C-Sub", 62.2),
    ("table3", "Co-deep LSTM [42]", "cmu", "4 folds", 81.0),
    ("table4", "VA-RNN-Aug [44]", "nw-ucla", "C-View", 90.7),
    ("table5", "CRRL (Ours)", "nw-ucla", "C-View", 86.4),
    ("table5", "CRRL (Ours)", "ntu60", "C-Sub", 60.7),
    ("table5", "P&C FS-AEC [13]", "ntu60", "C-View", 76.3),
    ("table6", "Rand-Enc", "ntu120", "C-Setup", 31.5),
    ("table6", "SER-pretrain-CML", "ntu60", "C-Sub", 58.7),
    ("table6", "SER-distill-CML", "cmu", "4 folds", 77.4),
    ("table6", "CML-SER-joint", "nw-ucla", "C-View", 82.2),
    ("table7", "Shear", "ntu120", "C-Sub", 43.1),
    ("table7", "Velocity (the proposed)", "ntu60", "C-View", 68.1),
    ("table8", "reverse", "ntu120", "C-Setup", 51.7),
    ("table9", "m_enc = 0.999, m_mlp = 0.99999", "ntu60", "C-Sub", 58.1),
    ("table9", "m_enc = 1, m_mlp = 1", "ntu60", "C-Sub", 55.9),
    ("table9", "m_enc = 0.7, m_mlp = 1", "ntu60", "C-Sub", 61.2),
    ("table9", "m_enc = 0.9999, m_mlp = 1", "ntu60", "C-Sub", 59.5),
    ("table10", "VGSR", "ntu60", "C-Sub", 66.2),
    ("figure4", "CML-SER-joint, L_c", "ntu60", "C-Sub", 2.43),
    ("figure6", "SER", "nw-ucla", "C-View", 81.4),
    ("figure8", "K = 64", "ntu60", "C-Sub", 62.8),
]


@pytest.mark.parametrize(("name", "row", "dataset", "label", "value"), VALUES)
def test_a_number_is_the_papers(name: PaperName, row: str, dataset: str, label: str, value: float | None) -> None:
    target = TARGETS[name]
    (found,) = [each for each in target.rows if each.name == row]
    (column,) = [each for each in target.columns if (each.dataset, each.label) == (dataset, label)]
    assert paper_number(target, found, column) == value


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_has_a_number_for_each_column_and_a_name_of_its_own(name: PaperName) -> None:
    target = TARGETS[name]
    assert len({row.name for row in target.rows}) == len(target.rows)
    for row in target.rows:
        assert len(row.paper) == len(target.columns)
        assert row.method in {*METHODS, None}
        assert row.kind == "ours" or row.method is None


def test_all_tables_of_the_paper_are_there_with_its_counts_of_rows() -> None:
    rows = {name: len(target.rows) for name, target in TARGETS.items() if re.fullmatch(r"table\d+", name)}
    assert list(rows.values()) == [11, 8, 5, 6, 4, 8, 5, 3, 11, 4]
    assert rows.keys() == {f"table{number}" for number in range(1, 11)}


def test_swept_settings_have_a_point_that_is_the_recipes_own() -> None:
    own = preset("synthetic").cml
    for name in ("table9", "figure8"):
        at = [row for row in TARGETS[name].rows if all(getattr(own, key) == value for key, value in row.settings)]
        assert at
        assert {row.paper for row in at} == {(62.8,)}


def test_a_data_set_that_the_table_lacks_gets_columns_without_numbers() -> None:
    target = TARGETS["table6"]
    columns = columns_of(target, "synthetic", "cross-subject")
    assert [column.splits for column in columns] == [("cross-subject",), ("cross-view",)]
    assert paper_number(target, target.rows[0], columns[0]) is None
    assert columns_of(target, "folder", "default") == (Column("folder", "default", ("default",)),)
    assert len(columns_of(target, "ntu60", "cross-subject")) == 2


def test_settings_are_tested_on_folds_where_there_are_any_and_tables_are_not() -> None:
    folds = ("validation-1", "validation-2", "validation-3")
    held_against_first = replace(TARGETS["table6"], against_first=True)
    (column,) = columns_of(held_against_first, "synthetic", "cross-subject", folds)
    assert (column.name, column.splits) == ("synthetic training clips, 3 folds", folds)
    assert columns_of(held_against_first, "folder", "default", ())[0].splits == ("default",)
    assert columns_of(held_against_first, "nw-ucla", "cross-view", folds)[0].splits == ("cross-view",), "the target's"
    assert columns_of(TARGETS["table6"], "synthetic", "cross-subject", folds)[0].splits == ("cross-subject",)
