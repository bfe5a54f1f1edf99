"""Files that are a clip each, read by their endings: the input of `predict`, `embed` and `view`.

A folder of OpenPose's frames is a clip as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy.typing as npt

from crrl.data.clips import FloatArray, Tree, check_clip
from crrl.data.naming import files_below
from crrl.data.prepared import is_prepared
from crrl.data.readers import asf, bvh, cmu, coco, folder, mediapipe, ntu, nw_ucla, openpose, poses
from crrl.data.readers.arrays import map_array
from crrl.errors import CrrlError
from crrl.files import read_bytes


def _read_ntu(path: Path) -> FloatArray:
    try:
        clip, _ = ntu.read(read_bytes(path))
    except ValueError as error:
        raise CrrlError(f"{path}, {error}: restore the file or leave it out") from error
    if len(clip) == 0:
        raise CrrlError(f"{path} shows nobody: leave it out")
    return clip


def _read_json(path: Path, bodies: int | None) -> npt.ArrayLike:
    """A clip of NW-UCLA, MediaPipe or an estimator of COCO's joints, by the file's content."""
    content = read_bytes(path)
    if b'"skeletons"' in content:
        return nw_ucla.read_clip(path)
    return mediapipe.read_clip(path, bodies) if b"andmarks" in content else _in_pixels(coco.read_clip(path, bodies))


def _in_pixels(clip: FloatArray) -> FloatArray:
    poses.warn_of_parts(clip)
    return clip


READERS: dict[str, Callable[[Path], npt.ArrayLike]] = {
    ".npy": map_array,
    ".npz": folder.read_clip,
    ".skeleton": _read_ntu,
    ".bvh": lambda path: bvh.positions(*bvh.read_file(path)),
    ".amc": cmu.read_clip,
}
"""The reader of each ending in lower case; it gives numbers [T, J, 3], as an array or lists."""

ESTIMATED: dict[str, Callable[[Path, int | None], npt.ArrayLike]] = {
    ".json": _read_json,
    ".csv": mediapipe.read_clip,
    "": lambda path, bodies: _in_pixels(openpose.read_clip(path, bodies)),
}
"""The readers of pose estimators' files, "" for a folder. Their second argument is the number of bodies."""

BODIES = {
    bodies * joints: bodies
    for joints in (coco.NUM_JOINTS, mediapipe.NUM_JOINTS, *openpose.JOINTS)
    for bodies in range(1, poses.BODIES + 1)
}
"""The number of bodies of an estimator that have so many joints together."""

_ENDINGS = [ending for ending in (*READERS, *ESTIMATED) if ending]
_READ = f"{', '.join(_ENDINGS)} and folders of OpenPose's frames are read"


def find_clip_files(given: Iterable[Path]) -> list[Path]:
    """The clip files, and folders of OpenPose's frames, among `given` or below the folders in it, each once.

    Below a folder, labels.csv and files with other endings are skipped, as are other files beside frames.

    Raises:
        CrrlError: a given file has another ending, or is a frame; a folder holds no clip, or a prepared set.
    """
    found: dict[Path, None] = {}
    for path in given:
        found |= dict.fromkeys(_below(path) if path.is_dir() else [_known(path)])
    return list(found)


def _below(root: Path) -> list[Path]:
    if is_prepared(root):
        raise CrrlError(f"{root} is a prepared set: give --dataset prepared --data {root}")
    files = [path for path in files_below(root, *_ENDINGS) if path.name != folder.LABELS]
    frames: set[Path] = set()
    for path in files:
        if path.parent not in frames and openpose.is_frame(path):
            frames.add(path.parent)
    clips = list(dict.fromkeys(path.parent if path.parent in frames else path for path in files))
    if not clips:
        raise CrrlError(f"{root} holds no clip: {_READ}")
    return clips


def _known(path: Path) -> Path:
    """`path`, if its name is that of a clip."""
    if openpose.is_frame(path):
        raise CrrlError(f"{path} is a frame of OpenPose's: give the folder of all of the clip's frames, {path.parent}")
    if path.suffix.lower() not in _ENDINGS or path.name == folder.LABELS:
        raise CrrlError(f"{path} is not a clip file that crrl knows by its name: {_READ}")
    return path


def read_clip_file(path: Path, joints: int | None = None) -> npt.ArrayLike:
    """The content of a file or folder of `find_clip_files`, for `check_clip`; .npy is memory-mapped.

    Args:
        joints: the joint count that the clip should have, which decides whether one or two people of an estimator's
            file are read (an absent second one is zeros); None: as many as found.

    Raises:
        CrrlError: it is missing, damaged or of another kind.
    """
    ending = "" if path.is_dir() else _known(path).suffix.lower()
    if ending in ESTIMATED:
        return ESTIMATED[ending](path, BODIES.get(joints or 0))
    return READERS[ending](path)


def read_body(path: Path) -> tuple[FloatArray, Tree | None]:
    """A clip, float32 [T, J, 3] in the unit of its file or folder, and the joint hierarchy of a .bvh or .amc file.

    Raises:
        CrrlError: as `read_clip_file` and `check_clip`.
    """
    if path.suffix.lower() == ".bvh":
        skeleton, motion = bvh.read_file(path)
        return bvh.positions(skeleton, motion), skeleton.tree()
    if path.suffix.lower() == ".amc":
        body = asf.read_skeleton(cmu.skeleton_path(path))
        return asf.positions(body, asf.read_motion(path, body)), Tree(body.names, body.parents)
    return check_clip(read_clip_file(path), str(path)), None
