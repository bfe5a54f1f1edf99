"""Run files: what was written comes back, what was changed since is refused by name, whatever it says now."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import crrl
from crrl.config import Config
from crrl.data import Clips, Prepared, Preprocessing, Preprocessor
from crrl.errors import CrrlError
from crrl.files import Busy
from crrl.models import Encoder, FeatureExtractor
from crrl.recipes import preset
from crrl.reproduction.records import Record, losses
from crrl.runs import FORMAT, SEAL_LENGTH, RunFolder, _seal, load_encoder, save_encoder

JOINTS, HIDDEN = 3, 4


def write_encoder(path: Path) -> None:
    torch.manual_seed(0)
    clips = Clips.from_arrays([np.ones((2, JOINTS, 3))], labels=[0], names=["a"], class_names=["any"])
    prepared = Prepared(clips, Preprocessor(Preprocessing(max_frames=10), JOINTS), "0123")
    save_encoder(path, FeatureExtractor(Encoder(3 * JOINTS, HIDDEN)), prepared, "cml")


def state() -> dict[str, Any]:
    """What a checkpoint holds, small."""
    return {
        "phase": "cml",
        "step": 3,
        "module": torch.nn.Linear(5, 7).state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "ranks": 1,
        "rng": torch.get_rng_state(),
        "sums": torch.zeros(2, dtype=torch.float64),
        "data": "0123",
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with one line of metrics, a checkpoint of then, and an encoder."""
    run = RunFolder(tmp_path / "run")
    run.create(preset())
    run.log({"phase": "cml", "loss": 1.0})
    run.save_checkpoint(state())
    write_encoder(run.encoder_path)
    return run


def facts_of(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["crrl"])
    return facts


def sealed(weights: dict[str, torch.Tensor], facts: dict[str, Any]) -> bytes:
    """An encoder file with these facts and the hash that belongs to it."""
    content = save(weights, {"crrl": json.dumps({**facts, "sha256": "0" * 64})})
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def damages(content: bytes, flips: int, head: int) -> Iterator[bytes]:
    """The content with one bit flipped, anywhere and in every bit of the first `head` bytes, or cut."""
    draw = random.Random(0)
    bits = [*range(8 * head), *(draw.randrange(8 * len(content)) for _ in range(flips))]
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - SEAL_LENGTH, len(content) - 1):
        yield content[:length]
    yield content + b"\0"


def test_any_changed_bit_of_an_encoder_is_found(run: RunFolder) -> None:
    path = run.encoder_path
    content = path.read_bytes()
    for damaged in damages(content, flips=800, head=8):
        path.write_bytes(damaged)
        with pytest.raises(CrrlError, match=rf"^{path} (is|was) .*: .*(restore|that wrote it|fetch|give|unpack)"):
            load_encoder(path)
    path.write_bytes(content)
    load_encoder(path)


def test_any_changed_bit_of_a_checkpoint_is_found(run: RunFolder) -> None:
    path = run.checkpoint_path
    content = path.read_bytes()
    for damaged in damages(content, flips=400, head=8):
        path.write_bytes(damaged)
        with pytest.raises(CrrlError, match=f"^{path} is damaged, cut short or not a checkpoint .*delete it"):
            run.load_checkpoint()
    path.write_bytes(content)
    loaded = run.load_checkpoint()
    assert loaded is not None
    assert loaded["metrics_bytes"] == run.metrics_path.stat().st_size


def test_equal_encoders_are_equal_files(run: RunFolder, tmp_path: Path) -> None:
    write_encoder(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == run.encoder_path.read_bytes()


@pytest.mark.parametrize("changes", [{"format": FORMAT - 1}, {}])
def test_an_encoder_of_another_format_or_without_a_hash_is_refused(run: RunFolder, changes: dict[str, int]) -> None:
    content = run.encoder_path.read_bytes()
    facts = {key: value for key, value in facts_of(content).items() if key != "sha256"}
    run.encoder_path.write_bytes(save(load(content), {"crrl": json.dumps(facts | changes)}))
    with pytest.raises(CrrlError, match="was not written by this version of crrl"):
        load_encoder(run.encoder_path)


WRONG = (None, True, -1, 2.5, 1e300, float("nan"), 10**30, "", "x", "\ud800", [], [[]], {}, {"a": 1})


def paths_in(value: Any, here: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each value in nested dictionaries."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*here, key)
        yield from paths_in(item, (*here, key))


def changed(value: Any, path: tuple[str, ...], change: Callable[[dict[str, Any], str], object]) -> Any:
    """A copy of nested dictionaries, one of which `change(dictionary, key)` has changed."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return copy


def variants(value: Any) -> Iterator[Any]:
    """A JSON object with each of its values replaced by each of WRONG, each left out, and one too many."""
    for path in paths_in(value):
        yield changed(value, path, lambda inner, key: inner.pop(key))
        yield changed(value, path, lambda inner, key: inner.update({f"{key}?": inner[key]}))
        for wrong in WRONG:
            yield changed(value, path, lambda inner, key, wrong=wrong: inner.update({key: wrong}))
    yield from WRONG


def named(path: Path, read: Callable[[], object]) -> bool:
    """Whether `read` refuses the file in one line that names it; every other failure passes."""
    try:
        read()
    except CrrlError as error:
        return (str(path) in str(error) and "\n" not in str(error)) or pytest.fail(str(error))
    return False


def test_wrong_facts_in_an_encoder_are_one_line(run: RunFolder) -> None:
    path, content = run.encoder_path, run.encoder_path.read_bytes()
    weights, accepted = load(content), []
    whole = {key: value for key, value in facts_of(content).items() if key != "sha256"}
    for facts in variants(whole):
        if isinstance(facts, dict):
            path.write_bytes(sealed(weights, facts))
            if not named(path, lambda: load_encoder(path)):
                accepted += [facts]
    assert all({**facts, "fingerprint": ""} == {**whole, "fingerprint": ""} for facts in accepted), (
        "any text may be one"
    )


def test_metadata_that_is_something_else_is_one_line(run: RunFolder) -> None:
    weights = load(run.encoder_path.read_bytes())
    for text in ("", "[" * 100_000, '"a"', "[]", "7", '{"format": 5}', '{"format": 4, "sha256": 7}'):
        run.encoder_path.write_bytes(save(weights, {"crrl": text}))
        assert named(run.encoder_path, lambda: load_encoder(run.encoder_path))


@pytest.mark.parametrize("fact", [{"hidden_size": 100_000}, {"hidden_size": 2**62}, {"nuisances": 10**9}])
def test_sizes_that_the_weights_do_not_have_take_no_memory(run: RunFolder, fact: dict[str, int]) -> None:
    path = run.encoder_path
    path.write_bytes(sealed({"a": torch.zeros(1)}, {**facts_of(path.read_bytes()), **fact}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CrrlError, match=f"^{path} is damaged .*restore it or train again"):
        crrl.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_checkpoint_is_told_from_an_encoder(run: RunFolder) -> None:
    with pytest.raises(CrrlError, match=r"is a training checkpoint, .* give the run's encoder\.safetensors"):
        crrl.load(run.checkpoint_path)


def test_a_wrong_configuration_is_one_line(run: RunFolder) -> None:
    path, accepted = run.config_path, []
    for value in variants(preset("nw-ucla", "tuned").to_dict()):
        path.write_text(json.dumps(value))
        if not named(path, run.config):
            accepted.append(run.config())
    assert all(isinstance(config, Config) for config in accepted)
    assert len(accepted) < 150, "other numbers, names and paths"


def rewrite(run: RunFolder, value: object) -> None:
    """Make this the run's checkpoint, with the hash that belongs to it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    run.checkpoint_path.write_bytes(buffer.getvalue() + _seal(buffer.getvalue()))


def test_a_checkpoint_of_other_types_is_one_line(run: RunFolder) -> None:
    whole = {**state(), "metrics_bytes": 0}
    wrong: list[object] = [{**whole, key: value} for key in whole for value in (None, [], -1, 0.5)]
    wrong += [{key: value for key, value in whole.items() if key != left} for left in whole]
    for value in [*wrong, None, [], torch.zeros(3)]:
        rewrite(run, value)
        assert named(run.checkpoint_path, run.load_checkpoint), value


def test_a_compressed_checkpoint_is_not_unpacked(run: RunFolder) -> None:
    buffer = io.BytesIO()
    torch.save({**state(), "metrics_bytes": 0, "bomb": torch.zeros(30_000_000)}, buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    run.checkpoint_path.write_bytes(packed.getvalue() + _seal(packed.getvalue()))
    assert run.checkpoint_path.stat().st_size < 1_000_000
    with pytest.raises(CrrlError, match=f"^{run.checkpoint_path} is not a checkpoint of crrl .*compressed"):
        run.load_checkpoint()


def test_a_checkpoint_makes_nothing_but_tensors(run: RunFolder) -> None:
    rewrite(run, {**state(), "metrics_bytes": 0, "bomb": bytearray(5)})
    with pytest.raises(CrrlError, match=f"^{run.checkpoint_path} is not a checkpoint of crrl .*bytearray"):
        run.load_checkpoint()


@pytest.mark.parametrize(
    "text", ["{", "7\n", "[1]\n", '{"phase": 1}\n{"phase": []}\n', '{"loss": "a", "phase": 0}', "\xff", "[" * 10**5]
)
def test_damaged_metrics_are_one_line(run: RunFolder, text: str) -> None:
    run.metrics_path.write_text(text, encoding="latin-1")
    assert named(run.metrics_path, lambda: losses(run.path, "loss")) or losses(run.path, "loss") == []


def test_a_damaged_record_is_one_line(run: RunFolder) -> None:
    Record("python -m crrl.train", ["abc"], 40.0).write(run.path)
    path = run.path / "reproduction.json"
    for value in variants(json.loads(path.read_text())):
        path.write_text(json.dumps(value))
        if not named(path, lambda: Record.read(run.path)):
            record = Record.read(run.path)
            assert all(isinstance(each, str) for each in (record.command, record.failure, *record.commits))


def test_metrics_written_since_are_cut_off_and_leftovers_removed(run: RunFolder) -> None:
    kept = run.metrics_path.read_bytes()
    run.log({"phase": "cml", "loss": 0.5})
    leftovers = [run.path / f".{name}.12ab.tmp" for name in ("checkpoint.pt", "teacher.safetensors", "config.json")]
    for path in leftovers:
        path.touch()
    theirs = run.path / ".notes.tmp"
    theirs.touch()
    run.begin(run.load_checkpoint())
    assert run.metrics_path.read_bytes() == kept
    assert not any(path.exists() for path in leftovers)
    assert theirs.exists()
    run.begin(None)
    assert run.metrics_path.read_bytes() == b""


@pytest.mark.parametrize("cut", [1, 10**9], ids=["a byte", "all"])
def test_metrics_shorter_than_the_checkpoint_says_are_refused(run: RunFolder, cut: int) -> None:
    checkpoint = run.load_checkpoint()
    assert checkpoint
    whole = run.metrics_path.read_bytes()
    left = whole[: max(0, len(whole) - cut)]
    run.metrics_path.write_bytes(left)
    line = f"^{run.metrics_path} has {len(left)} bytes, but had {len(whole)} when checkpoint.pt was written: restore it"
    with pytest.raises(CrrlError, match=line):
        run.begin(checkpoint)
    assert run.metrics_path.read_bytes() == left
    run.metrics_path.unlink()
    with pytest.raises(CrrlError, match="has 0 bytes"):
        run.begin(checkpoint)


@pytest.mark.parametrize("write", [lambda run: run.begin(None), lambda run: run.log({})], ids=["cut", "appended"])
def test_metrics_that_are_a_link_are_left_alone(run: RunFolder, write: Callable[[RunFolder], None]) -> None:
    precious = run.path.parent / "precious"
    run.metrics_path.rename(precious)
    run.metrics_path.symlink_to(precious)
    before = precious.read_bytes()
    with pytest.raises(CrrlError, match=f"{run.metrics_path} is a symbolic link, .*remove it"):
        write(run)
    assert precious.read_bytes() == before


def test_a_file_that_is_a_link_is_replaced_not_followed(run: RunFolder) -> None:
    precious = run.path.parent / "precious"
    precious.write_text("precious")
    for path in (run.checkpoint_path, run.config_path, run.encoder_path):
        path.unlink()
        path.symlink_to(precious)
    run.create(preset())
    run.save_checkpoint(state())
    write_encoder(run.encoder_path)
    assert precious.read_text() == "precious"
    assert run.config() == preset()


def test_one_process_works_in_a_run(run: RunFolder) -> None:
    line = f"^{run.path} is in use by another process, which trains or evaluates it: wait for that, or"
    for first, second in ((False, False), (False, True), (True, False)):
        with run.lock(first), pytest.raises(Busy, match=line), run.lock(second):
            pass
    with run.lock(shared=True), run.lock(shared=True):
        pass


def test_files_have_the_mode_that_the_umask_gives(run: RunFolder) -> None:
    before = os.umask(0o027)
    try:
        run.create(preset())
    finally:
        os.umask(before)
    assert run.config_path.stat().st_mode & 0o777 == 0o640
