"""Files that are a clip each: every format is read as its data set reads it, and what is no clip is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crrl.data.readers import bvh, cmu, ntu, nw_ucla
from crrl.data.readers.arrays import map_array
from crrl.data.readers.clip_files import READERS, find_clip_files, read_clip_file
from crrl.errors import CrrlError

CLIP = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
BVH = """HIERARCHY
ROOT hips
{
OFFSET 0 0 0
CHANNELS 3 Xposition Yposition Zposition
End Site
{
OFFSET 0 1 0
}
}
MOTION
Frames: 2
Frame Time: 0.04
1 2 3
4 5 6
"""


def skeleton(bodies: int) -> str:
    """A .skeleton file of two frames with so many bodies in each."""
    joints = "".join(f"{joint} 1 2{' 0' * 9}\n" for joint in range(1, 26))
    frame = f"{bodies}\n" + "".join(f"{number}{' 0' * 9}\n25\n{joints}" for number in range(bodies))
    return "2\n" + 2 * frame


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    np.savez(tmp_path / "b.npz", CLIP)
    mapped = read_clip_file(tmp_path / "a.npy")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, CLIP)
    np.testing.assert_array_equal(read_clip_file(tmp_path / "b.npz"), CLIP)


def test_a_mapped_array_has_the_order_and_type_of_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(CLIP.astype(np.float64)))
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy"), CLIP)
    np.save(tmp_path / "empty.npy", CLIP[:0])
    assert map_array(tmp_path / "empty.npy").shape == (0, 5, 3)


def test_a_mapped_array_that_is_cut_short_or_too_long_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    content = (tmp_path / "a.npy").read_bytes()
    for changed in (content[:-1], content + b"\0", content[:60]):
        (tmp_path / "a.npy").write_bytes(changed)
        with pytest.raises(CrrlError, match=r"a\.npy is damaged or no \.npy array"):
            map_array(tmp_path / "a.npy")


def test_text_is_read_as_its_data_set_reads_it(tmp_path: Path) -> None:
    for name, text in (("a.bvh", BVH), ("b.skeleton", skeleton(1)), ("c.json", '{"skeletons": [%s]}')):
        frames = str(np.ones((20, 3)).tolist())
        (tmp_path / name).write_text(text % frames if "%s" in text else text)
    found = {path.suffix: np.asarray(read_clip_file(path)) for path in find_clip_files([tmp_path])}
    np.testing.assert_array_equal(found[".bvh"], bvh.positions(*bvh.read_file(tmp_path / "a.bvh")))
    assert found[".bvh"].tolist() == [[[1, 2, 3], [1, 3, 3]], [[4, 5, 6], [4, 6, 6]]]
    np.testing.assert_array_equal(found[".skeleton"], ntu.read((tmp_path / "b.skeleton").read_bytes())[0])
    assert found[".skeleton"].shape == (2, 50, 3)
    np.testing.assert_array_equal(found[".json"], nw_ucla.read_clip(tmp_path / "c.json"))


def test_cmu_s_trials_lie_beside_their_skeleton(real_data: Path) -> None:
    path = next((real_data / "cmu").rglob("*.amc"))
    clip = np.asarray(read_clip_file(path))
    assert clip.shape[1:] == (31, 3)
    assert np.ptp(clip[0, :, 1]) == pytest.approx(1.6, abs=0.4), "metres"
    np.testing.assert_array_equal(clip, cmu.read_clip(path))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.skeleton", skeleton(0), "shows nobody"),
        ("a.skeleton", "2\n1\n", r", line 3: .*: restore the file or leave it out"),
        ("a.json", "{}", "expected a list of frames"),
        ("a.bvh", "HIERARCHY", "no HIERARCHY followed by a MOTION"),
        ("a.npz", "PK", "is not a .npy or .npz array"),
    ],
)
def test_what_is_no_clip_is_named(tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(CrrlError, match=rf"^{path}.*{problem}"):
        read_clip_file(path)


def test_files_come_once_in_the_order_given_and_folders_are_searched(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("below/b.npy", "below/a.NPY", "below/labels.csv", "below/.hidden.npy", "c.bvh"):
        (tmp_path / name).touch()
    given = [tmp_path / "c.bvh", tmp_path / "below", tmp_path / "below" / "b.npy"]
    names = [str(path.relative_to(tmp_path)) for path in find_clip_files(given)]
    assert names == ["c.bvh", "below/a.NPY", "below/b.npy"]


def test_a_folder_without_clips_a_prepared_one_and_another_ending_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    with pytest.raises(CrrlError, match=f"{tmp_path} holds no clip: {', '.join(READERS)}, .* frames are read"):
        find_clip_files([tmp_path])
    with pytest.raises(CrrlError, match=r"labels\.csv is no file of a clip"):
        find_clip_files([tmp_path / "labels.csv"])
    for name in ("manifest.json", "meta.json", "frames.npy"):
        (tmp_path / name).touch()
    with pytest.raises(CrrlError, match="is a prepared set: give --dataset prepared --data"):
        find_clip_files([tmp_path])
