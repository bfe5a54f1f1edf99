"""One clip from one file, by the file's ending, with the skeleton that the file says itself."""

from __future__ import annotations

from pathlib import Path

from crrl.data import asf, bvh, folder, ntu, nw_ucla
from crrl.data.clips import FloatArray, check_clip
from crrl.data.skeletons import Skeleton, of_parents
from crrl.errors import CrrlError
from crrl.files import read_bytes

ENDINGS = (".npy", ".npz", ".bvh", ".amc", ".skeleton", ".json")


def read_clip_file(path: Path) -> tuple[FloatArray, Skeleton | None]:
    """A clip, float32 [T, J, 3], of a .npy, .npz, .bvh, .amc (its .asf beside it), .skeleton or NW-UCLA .json file.

    Lengths are in the file's own unit. The skeleton is None where the file does not say it.

    Raises:
        CrrlError: the file is missing, damaged, of another kind or shows nobody.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise CrrlError(f"{path} is no clip by its name: a clip ends in {', '.join(ENDINGS)}")
    if ending == ".bvh":
        skeleton, motion = bvh.read_file(path)
        return bvh.positions(skeleton, motion), of_parents(skeleton.names, skeleton.parents)
    if ending == ".amc":
        body = asf.read_skeleton(_asf_of(path))
        return asf.positions(body, asf.read_motion(path, body)), of_parents(body.names, body.parents)
    if ending == ".skeleton":
        return _skeleton_file(path), None
    if ending == ".json":
        return check_clip(nw_ucla.skeletons(path), str(path)), None
    return folder.read_clip(path), None


def _asf_of(path: Path) -> Path:
    """The skeleton of a motion: of its own name, or of its subject's, as CMU has 02.asf for 02_01.amc."""
    own = path.with_suffix(".asf")
    return own if own.exists() else path.with_name(f"{path.stem.partition('_')[0]}.asf")


def _skeleton_file(path: Path) -> FloatArray:
    try:
        clip, _ = ntu.read(read_bytes(path))
    except ValueError as error:
        raise CrrlError(f"{path}, {error}: restore the file") from error
    return check_clip(clip, str(path))
