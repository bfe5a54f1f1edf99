"""The entries of data sets and formats: what their names, splits and files must agree with."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from crrl.data import registry
from crrl.data.readers import synthetic
from crrl.data.registry import DATA_SETS, FORMATS, NAMED_BY_FOLDER, PRESETS, SOURCES, Dataset

READERS = {path.stem for path in (Path(registry.__file__).parent / "readers").glob("*.py")}


def test_the_type_of_names_is_the_table() -> None:
    assert get_args(Dataset) == tuple(name for name, source in SOURCES.items() if source.presets is not None)


def test_every_entry_can_be_read_and_trained_on() -> None:
    for name, source in SOURCES.items():
        assert source.load is not None or source.clip_files is not None
        assert name in PRESETS or source.is_format, "what no preset is made of must say what it holds"
        assert name == "prepared" or source.code.__name__.rpartition(".")[2] in READERS


def test_data_sets_formats_and_prepared_folders_are_all_there_is() -> None:
    assert sorted([*DATA_SETS, *FORMATS, "prepared"]) == sorted(SOURCES)
    assert {"folder", "prepared"} == NAMED_BY_FOLDER


@pytest.mark.parametrize(
    ("split", "datasets"),
    [
        ("cross-subject", ["synthetic", "ntu60", "ntu120", "pku-mmd"]),
        ("cross-view", ["nw-ucla"]),
        ("fold-1", ["cmu"]),
        ("default", ["folder", "prepared"]),
    ],
)
def test_the_split_where_none_is_named(split: str, datasets: list[str]) -> None:
    assert [name for name, presets in PRESETS.items() if presets.split == split] == datasets


def test_splits_are_those_that_a_reader_makes() -> None:
    for name in ("ntu60", "ntu120"):
        files = SOURCES[name].clip_files
        assert files is not None
        assert set(PRESETS[name].splits) == files.official.keys()
    assert set(PRESETS["synthetic"].splits) <= synthetic.generate().splits.keys()
