"""Files of the cache and of prepared folders with bytes or values exchanged: found, or one line that names them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crrl.data import Preprocessing, prepared, sources
from crrl.data.integrity import damage
from crrl.data.packing import prepare_folder
from crrl.errors import CrrlError
from crrl.files import cache_folder
from tests.clips import write_clips

TIMES = 12
"""Mutations of each file."""
NESTED: list[Any] = []
for _ in range(900):
    NESTED = [NESTED]
VALUES = [
    None,
    True,
    -1,
    2**64,
    1.5,
    float("nan"),
    "",
    "a",
    "\ud800",
    "x" * 5000,
    "../x",
    "/dev/zero",
    [],
    [[]],
    {},
    NESTED,
]
INSERTS = [b"\0", b"\r", b"99999999999999999999", b"'|O'", b"(", b"[" * 3000, b"\xff\xfe"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value within a JSON value: what holds it, and the key or index."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    value = json.loads(content)
    holder, key = rng.choice(list(places(value)))
    change = rng.randrange(4)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(["\ud800", "x" * 5000, "../y", "z"])] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    first = rng.randrange(min(len(changed), rng.choice([10, 130, 10**6])))
    change = rng.randrange(4)
    if change == 0:
        changed[first] ^= 1 << rng.randrange(8)
    elif change == 1:
        del changed[first:]
    elif change == 2:
        del changed[first : first + rng.randrange(1, 100)]
    else:
        changed[first : first + rng.randrange(9)] = rng.choice(INSERTS)
    return bytes(changed)


def mutations(folder: Path) -> Iterator[tuple[Path, str]]:
    """Copies of a folder with one file changed, and that file's name."""
    copy, rng = folder.with_name(f"{folder.name}-changed"), random.Random(0)
    shutil.copytree(folder, copy)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for _ in range(TIMES):
            mutate = mutate_json if path.suffix == ".json" and rng.random() < 0.6 else mutate_bytes
            changed = mutate(content, rng)
            if changed != content:
                (copy / path.name).write_bytes(changed)
                yield copy, path.name
        shutil.copy2(path, copy)


def opens(function: Callable[[], object], folder: Path) -> bool:
    """Whether the function returns; if not, it must be with one line that names a file or the folder."""
    try:
        function()
    except CrrlError as error:
        line = str(error)
    else:
        return True
    assert str(folder) in line
    assert line.isprintable()
    return False


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    split = ["train"] * 3 + ["test"] * 2
    return write_clips(tmp_path / "clips", ["run", "sit", "run", "sit", "run"], split=split)


def test_every_change_of_a_set_in_the_cache_is_found_and_none_fails_otherwise(clips: Path) -> None:
    sources.prepare("folder", clips, "default", Preprocessing(max_frames=4))
    (target,) = cache_folder().iterdir()
    opened = 0
    for folder, name in mutations(target):
        found = damage(folder, sources.CACHED)
        assert found or name == "hashes.json", "of which a sample's hash or a time may change"
        opened += opens(lambda folder=folder: sources._open(folder), folder)  # though its hashes do not hold
    assert 0 < opened < TIMES * 9


def test_every_change_of_a_prepared_folder_is_found_and_none_fails_otherwise(clips: Path, tmp_path: Path) -> None:
    prepare_folder("folder", clips, tmp_path / "out")
    for folder, name in mutations(tmp_path / "out"):

        def load(folder: Path = folder) -> None:
            prepared.load(prepared.find_files(folder))

        assert opens(load, folder) <= (name in ("manifest.json", "report.txt"))  # counts, which no program reads
        if name != "manifest.json":  # as who knows the form would make it
            shutil.copy2(folder / "manifest.json", kept := folder.with_name("kept"))
            manifest = json.loads(kept.read_text())
            manifest["files"][name] = prepared.digest(folder / name)
            (folder / "manifest.json").write_text(json.dumps(manifest))
            opens(load, folder)
            shutil.copy2(kept, folder / "manifest.json")
