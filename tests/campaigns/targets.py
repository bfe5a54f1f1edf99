"""What is mutated: small valid files of every reader, how it is asked for them, and what they must be read as."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crrl
from crrl.classifier import MARK, REFITTED, Classifier, save_classifier
from crrl.data import prepared, sources
from crrl.data.clips import Clips
from crrl.data.packing import prepare_folder
from crrl.data.preprocessing import Preprocessing
from crrl.data.readers import (
    asf,
    bvh,
    cmu,
    coco,
    ctr_gcn,
    folder,
    mediapipe,
    ntu,
    nw_ucla,
    openpose,
    pku_mmd,
    pyskl,
    st_gcn,
)
from crrl.data.readers import skeleton as ntu_skeleton
from crrl.data.readers.pickles import read_pickle
from crrl.errors import CrrlError
from crrl.models import Encoder, FeatureExtractor
from crrl.recipes import preset
from crrl.runs import CHECKPOINT, RunFolder, load_encoder, save_encoder
from crrl.sealed import NO_HASH
from tests.campaigns import oracles

Files = dict[str, bytes]
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Inside:
    """A kind of file that has parts: how it is taken apart, and how parts make one."""

    apart: Callable[[bytes], Files]
    whole: Callable[[Files], bytes]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: sets of valid files by name; one file of one of them is mutated at a time.
        read: what the reader gives of the folder in which they lie.
        expected: the same of their contents, by a parser of its own; None: what the seed was read as, as nothing that
            is changed may be taken.
        refusals: how the reader may refuse. steady: files that are never mutated. inside: how a file is taken apart, so
            that one of its parts is mutated, and put together again with true checksums.
    """

    seeds: list[Files]
    read: Callable[[Path], Any]
    expected: Callable[[Files], Any] | None = None
    refusals: tuple[type[Exception], ...] = (CrrlError,)
    steady: frozenset[str] = field(default=frozenset())
    inside: Inside | None = None


def _decimals(count: int) -> str:
    return " ".join(f"{value:.{place % 5 + 2}f}" for place, value in enumerate(RNG.normal(size=count)))


def _bvh(frames: int, newline: str = "\n") -> bytes:
    text = (
        "HIERARCHY\nROOT Hips\n{\n  OFFSET 0.5 1.25 -0.125\n"
        "  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
        "  JOINT Left Leg\n  {\n    OFFSET 3.5 -1e1 .25\n    CHANNELS 3 Zrotation Xrotation Yrotation\n"
        "    End Site\n    {\n      OFFSET 0 -4.5 0\n    }\n  }\n  JOINT Spine\n  {\n    OFFSET 0 10 0\n"
        "    CHANNELS 1 Yrotation\n  }\n}\n"
        f"MOTION\nFrames: {frames}\nFrame Time: 0.0333\n"
    )
    return (text + "".join(f"{_decimals(10)}\n" for _ in range(frames))).replace("\n", newline).encode()


def _read_bvh(root: Path) -> Any:
    found = bvh.read_recording(root / "clip.bvh")
    joints = found.hierarchy
    bvh.positions(joints, found.motion)
    return joints.names, joints.parents, joints.offsets, joints.channels, found.motion, found.frame_time


ASF = b"""# made
:version 1.10
:name body
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  any words
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0.5 1.25 -2
  orientation 10 20 30
:bonedata
  begin
    id 1
    name thigh
    direction 0.6 -0.8 0
    length 7.25
    axis 0 0 20 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
    id 2
    name shin
    direction 0.342 -0.94 0.001
    length 7.5
    axis 1.5 -2 20 ZYX
    dof rx
    limits (-10.0 170.0)
  end
  begin
    id 3
    name foot
    direction 0 -0.28 0.96
    length 2
    axis -90 5 20 XYZ
  end
:hierarchy
  begin
    root thigh
    thigh shin
    shin foot
  end
"""


def _read_asf(root: Path) -> Any:
    found = asf.read_skeleton(root / "01.asf")
    above = ["" if parent < 0 else found.names[parent] for parent in found.parents]
    return found.unit, {
        name: (parent, channels, axes, offset)
        for name, parent, channels, axes, offset in zip(
            found.names, above, found.channels, found.axes, found.offsets, strict=True
        )
    }


def _amc(frames: int, head: str = ":FULLY-SPECIFIED\n:DEGREES\n") -> bytes:
    return (
        f"# made\n{head}"
        + "".join(
            f"{number}\nroot {_decimals(6)}\nthigh {_decimals(3)}\nshin {_decimals(1)}\n"
            for number in range(1, frames + 1)
        )
    ).encode()


CHANNELS = {"root": ("tx", "ty", "tz", "rx", "ry", "rz"), "thigh": ("rx", "ry", "rz"), "shin": ("rx",)}


def _read_amc(root: Path) -> Any:
    skeleton = asf.read_skeleton(root / "01.asf")
    motion = asf.read_motion(root / "01_01.amc", skeleton)
    asf.positions(skeleton, motion)
    return motion


def _pku(frames: int) -> Files:
    body = RNG.normal(size=(frames, 150)).round(4)
    body[1:, 75:] = 0
    rows = "".join(" ".join(map(str, values)) + "\n" for values in body.tolist())
    files = {
        "split/cross-subject.txt": "Training videos: \n0002-L\n\nValidataion videos: \n0003-R, \n",
        "skeleton/0002-L.txt": rows,
        "skeleton/0003-R.txt": rows,
        "label/0002-L.txt": f"6,0,1,2\n51,1,{frames},1\n",
        "label/0003-R.txt": f"12,0,{frames},2\n",
    }
    return {name: text.encode() for name, text in files.items()}


def _read_pku(root: Path) -> Any:
    clips = pku_mmd.load(pku_mmd.find_files(root))
    train = set(clips.splits["cross-subject"].train.tolist())
    return {
        name: (1 + pku_mmd.ACTIONS.index(clips.class_names[clips.labels[i]]), i in train, clips.clip(i))
        for i, name in enumerate(clips.names)
    }


def _skeleton(bodies: list[list[int]], newline: str) -> bytes:
    text = [str(len(bodies))]
    for seen in bodies:
        text.append(str(len(seen)))
        for number in seen:
            text += [f"{number} 0 1 1 0 2 0 -0.0347 0.2194 2", "25"]
            text += [f"{_decimals(7)} -0.2059 0.0507 0.9691 -1.266e-05 2" for _ in range(25)]
    return (newline.join(text) + newline).encode()


def _read_skeleton(root: Path) -> Any:
    content = (root / "S001C001P001R001A001.skeleton").read_bytes()
    messages = []
    for parse in (ntu_skeleton.parse, ntu_skeleton.parse_by_line):
        try:
            found = parse(content)
            messages.append((found.frames, {body.id: (body.frames.tolist(), body.joints) for body in found.bodies}))
        except ValueError as error:
            messages.append(str(error))
    if not same(*messages):
        raise AssertionError(f"C++ and Python read otherwise: {messages}"[:300])
    with suppress(ValueError):  # its own, which are refusals too
        ntu.read(content)
    if isinstance(messages[0], str):
        raise ValueError(messages[0])
    return messages[0]


def _nw_ucla() -> Files:
    return {
        f"a0{action}_s01_e01_v0{view}.json": json.dumps(
            {"file_name": "clip", "skeletons": RNG.normal(size=(2, 20, 3)).round(5).tolist(), "label": action}
        ).encode()
        for action, view in ((1, 1), (2, 3))
    }


def _read_nw_ucla(root: Path) -> Any:
    clips = nw_ucla.load(nw_ucla.find_files(root))
    return [clips.clip(i) for i in range(len(clips))]


LABELS = b"file,label,split,subject\na.npy,walk,train,1\nb/c.npy,sit down,test,2\nd.npy,walk,train,13\n"
TRIALS = b"subject,trial,label\n1,2,walk\n13,4,sit down\n2,1,walk\n"
TRIALS_BY_FILE = b"file,label\n01_02.amc,walk\n13_04.amc,sit down\n"


def _npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def archive(members: Mapping[str, bytes], deflated: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def _arrays() -> list[np.ndarray]:
    clip = RNG.normal(size=(3, 4, 3))
    return [clip.astype(np.float32), np.asfortranarray(clip), (100 * clip).astype(">i2"), clip.astype(np.float16)]


def _ctr_gcn(deflated: bool) -> Files:
    x = RNG.normal(size=(3, 3, 150)).astype(np.float32)
    x[0, 2], x[1, :, 75:] = 0, 0
    y = np.eye(3)
    parts = {"x_train": x[:2], "y_train": y[:2], "x_test": x[2:], "y_test": y[2:]}
    return {"NTU60_CS.npz": archive({f"{name}.npy": _npy(part) for name, part in parts.items()}, deflated)}


def _read_ctr_gcn(root: Path) -> Any:
    clips = ctr_gcn.load([root / "NTU60_CS.npz"])
    train = set(clips.splits["cross-subject"].train.tolist())
    return [(int(clips.labels[i]), i in train, clips.clip(i)) for i in range(len(clips))]


NAMES = ["S001C001P001R001A001.skeleton", "S001C001P002R001A002.skeleton", "S002C003P003R002A001.skeleton"]


def _st_gcn(protocol: int) -> Files:
    x = RNG.normal(size=(3, 3, 4, 25, 2)).astype(np.float32)
    x[0, :, 3], x[1, :, 2:] = 0, x[1, :, :2]
    files = {}
    for side, part in (("train", slice(0, 2)), ("val", slice(2, 3))):
        files[f"{side}_data.npy"] = _npy(x[part])
        files[f"{side}_label.pkl"] = pickle.dumps((NAMES[part], [4, 5, 4][part]), protocol)
    return files


def _read_st_gcn(root: Path) -> Any:
    clips = st_gcn.load(st_gcn.find_files(root))
    train = set(clips.splits["default"].train.tolist())
    return [(name, int(clips.labels[i]), i in train, clips.clip(i)) for i, name in enumerate(clips.names)]


def _pyskl(protocol: int) -> Files:
    annotations = [
        {
            "frame_dir": name.removesuffix(".skeleton"),
            "label": place,
            "keypoint": RNG.normal(size=(1 + place % 2, 3, 5, 3)).astype(np.float32),
            "total_frames": 3,
        }
        for place, name in enumerate(NAMES)
    ]
    names = [item["frame_dir"] for item in annotations]
    split = {"xsub_train": names[:2], "xsub_val": names[2:]}
    return {"ntu.pkl": pickle.dumps({"split": split, "annotations": annotations}, protocol)}


def _read_pyskl(root: Path) -> Any:
    clips = pyskl.load(pyskl.find_files(root))
    train = set(clips.splits["cross-subject"].train.tolist()) if "cross-subject" in clips.splits else set()
    return {name: (int(clips.labels[i]), i in train, clips.clip(i)) for i, name in enumerate(clips.names)}


def _person(joints: int, frames: int = 3) -> np.ndarray:
    """x, y and score of one who hardly moves, [T, joints, 3]."""
    points = RNG.uniform(100, 200, (1, joints, 2)) + RNG.normal(size=(frames, joints, 2))
    return np.concatenate([points, RNG.uniform(0.5, 1, (frames, joints, 1))], axis=2).round(3)


def _coco() -> list[Files]:
    """The four forms."""
    x, y, score = _person(17).transpose(2, 0, 1).tolist()
    places = [[list(pair) for pair in zip(*each, strict=True)] for each in zip(x, y, strict=True)]
    forms: list[Any] = [
        {"instance_info": [{"frame_id": t, "instances": [{"keypoints": places[t], "keypoint_scores": score[t]}]}
                           for t in range(3)]},
        [[{"name": "person", "keypoints": {"x": x[t], "y": y[t], "visible": score[t]}}] for t in range(3)],
        [[[places[t]], [score[t]]] for t in range(3)],
        [{"image_id": t, "keypoints": np.array([x[t], y[t], score[t]]).T.ravel().tolist()} for t in range(3)],
    ]  # fmt: skip
    return [{"clip.json": json.dumps(form).encode()} for form in forms]


def _openpose(joints: int) -> Files:
    return {
        f"clip/v_{frame:012}_keypoints.json": json.dumps(
            {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": points.ravel().tolist()}]}
        ).encode()
        for frame, points in enumerate(_person(joints))
    }


def _mediapipe() -> list[Files]:
    """A result of JavaScript's, and both tables."""
    points = _person(33)[..., [0, 1, 1, 2]] * (0.001, 0.001, 0, 1) + (0, 0, 0.25, 0)
    people = points.round(6).tolist()
    names = ("x", "y", "z", "visibility")
    results = [{"landmarks": [[dict(zip(names, each, strict=True)) for each in person]]} for person in people]
    wide = [",".join(f"{axis}{joint}" for joint in range(33) for axis in "xyzv")]
    wide += [",".join(str(value) for each in person for value in each) for person in people]
    long = ["frame,landmark,x,y,z,visibility"]
    long += [
        ",".join(map(str, (frame, joint, *each)))
        for frame, person in enumerate(people)
        for joint, each in enumerate(person)
    ]
    tables = [{"clip.csv": ("\n".join(rows) + "\n").encode()} for rows in (wide, long)]
    return [{"clip.json": json.dumps(results).encode()}, *tables]


def _read_mediapipe(root: Path) -> Any:
    return mediapipe.read_clip(next(root.glob("clip.*")))


def _apart(content: bytes, mark: str) -> Files:
    """The tensors' header, the facts and the data of a file of `write_sealed`; the hash in the facts is blank."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    facts = json.loads(header.pop("__metadata__")[mark])
    blank = json.dumps({**facts, "sha256": NO_HASH})
    return {"header": json.dumps(header).encode(), "facts": blank.encode(), "data": content[8 + size :]}


def _sealed(parts: Files, mark: str) -> bytes:
    """A file of these parts with its true hash."""
    facts = json.dumps({mark: parts["facts"].decode("utf-8", "replace")}).encode()
    header = b'{"__metadata__":' + facts + b"," + parts["header"].lstrip()[1:]
    content = len(header).to_bytes(8, "little") + header + parts["data"]
    return content.replace(NO_HASH.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


PLAIN = {
    "values": [1, -3, 10**20, 2.5, None, True, "text", "ünï", b"bytes \xff", 1 + 2j],
    "nested": [(), (1, 2), [], {}, [{"a": ({"b": 1},)}]],
    "arrays": [np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))],
    "others": [np.arange(5, dtype=">i4"), np.array(["S001", "S02"]), np.float64(2.5), bytearray(b"\x00\xff")],
    7: "number",
}


def _files_below(root: Path) -> Files:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _own_clips(root: Path) -> Path:
    """A folder of eight clips with its labels.csv."""
    root.mkdir()
    rows = ["file,label,split"]
    for place in range(8):
        np.save(root / f"{place}.npy", RNG.normal(size=(4 + place, 5, 3)).astype(np.float32))
        rows.append(f"{place}.npy,{'left' if place % 2 else 'right'},{'test' if place > 5 else 'train'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def _prepared(work: Path) -> Files:
    out = work / "made"
    prepare_folder("folder", _own_clips(work / "own"), out)
    return _files_below(out)


def _everything(clips: Clips) -> Any:
    splits = {name: (split.train, split.test) for name, split in clips.splits.items()}
    arrays = [np.array(getattr(clips, name)) for name in ("frames", "offsets", "labels", "subjects", "views", "setups")]
    return arrays, clips.names, clips.class_names, splits


def _read_prepared(root: Path) -> Any:
    return _everything(prepared.load(prepared.find_files(root)))


def _prepare(root: Path, own: Path) -> sources.Prepared:
    os.environ["CRRL_CACHE"] = str(root)
    return sources.prepare("folder", own, "default", Preprocessing())


def _read_cache(root: Path, own: Path) -> Any:
    found = _prepare(root, own)
    return _everything(found.clips), found.preprocessor.to_dict(), found.fingerprint


def _cache(work: Path, own: Path) -> Files:
    _prepare(work / "cache", own)
    return _files_below(work / "cache")


def _encoder(work: Path, own: Path) -> Files:
    torch.manual_seed(0)
    features = FeatureExtractor(Encoder(15, 4, 0.0), "paper", 0).eval()
    save_encoder(work / "encoder.safetensors", features, _prepare(work / "cache", own), "crrl")
    return {"encoder.safetensors": (work / "encoder.safetensors").read_bytes()}


def _read_encoder(root: Path) -> Any:
    found = load_encoder(root / "encoder.safetensors")
    states = {name: tensor.numpy() for name, tensor in found.features.state_dict().items()}
    return states, found.preprocessor.to_dict(), found.method, found.fingerprint


def _read_sealed_encoder(root: Path) -> Any:
    found = load_encoder(root / "encoder.safetensors")
    features = found.features
    gru, size = features.encoder.gru, features.nuisances.shape[1]
    facts = [found.method, gru.hidden_size, gru.dropout, features.kind, size, found.preprocessor.to_dict()]
    return [*facts, found.fingerprint], _numpy(dict(features.state_dict()))


def _models(work: Path, encoder: Files) -> list[Files]:
    """Model folders: an encoder, and a classifier on its features or on others that are fitted to it."""
    run, found = RunFolder(work / "model"), []
    run.path.mkdir()
    run.encoder_path.write_bytes(encoder["encoder.safetensors"])
    file = load_encoder(run.encoder_path)
    for refitted in (None, FeatureExtractor(file.features.encoder, "tuned", 2)):
        size, dtype = len((refitted or file.features).center), torch.float64 if refitted else torch.float32
        parts = (torch.arange(n, dtype=dtype) / 8 for n in (2 * size, 2, size, size))
        weights, *rest = parts
        classifier = Classifier(weights.reshape(2, size), *rest)
        kind = "logistic" if refitted else "linear"
        save_classifier(run.classifier_path, classifier, kind, ("left", "right"), file, refitted)
        found.append(_files_below(run.path))
    return found


def _read_classifier(root: Path) -> Any:
    found = crrl.load(root).classifier
    fitted = {f"features.{name}": getattr(found.features, name) for name in REFITTED} if found.facts.refitted else {}
    return list(asdict(found.facts).values()), _numpy({**vars(found.classifier), **fitted})


def _read_model(root: Path) -> Any:
    return _read_sealed_encoder(root), _read_classifier(root)


def _run(work: Path) -> Files:
    run = RunFolder(work / "run")
    run.create(preset())
    state: dict[str, Any] = {name: kind() for name, kind in CHECKPOINT.items()}
    run.save_checkpoint({**state, "module": {"weight": torch.arange(6.0)}, "rng": torch.arange(5, dtype=torch.uint8)})
    return _files_below(run.path)


def _read_config(root: Path) -> Any:
    return RunFolder(root).config().to_dict()


def _read_checkpoint(root: Path) -> Any:
    return _numpy(RunFolder(root).load_checkpoint())


def _numpy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return {key: _numpy(each) for key, each in value.items()} if isinstance(value, dict) else value


def same(a: Any, b: Any) -> bool:
    """Whether two results are the same, number by number; lists and tuples are one kind."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and (
            a.size == 0 or bool((a == b).all() or np.array_equal(a, b, a.dtype.kind in "fc"))
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | complex) and type(a) is type(b):
        return bool(np.array_equal(a, b, equal_nan=True))
    return bool(a == b)


def _close(a: Any, b: Any) -> bool:
    """The same, but for rounding."""
    if isinstance(a, np.ndarray):
        return a.shape == np.shape(b) and np.allclose(a, b, rtol=1e-9, atol=1e-9 * (1 + np.abs(a).max(initial=0)))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_close(value, b[key]) for key, value in a.items())
    return all(map(_close, a, b)) and len(a) == len(b) if isinstance(a, list | tuple) else same(a, b)


def agree(name: str, found: Any, expected: Any) -> bool:
    return _close(found, expected) if name == "asf" else same(found, expected)


def _sealed_by(mark: str) -> Inside:
    return Inside(partial(_apart, mark=mark), partial(_sealed, mark=mark))


def build(work: Path) -> dict[str, Target]:
    """All readers by name; `work` is an empty folder that stays."""
    own = _own_clips(work / "clips")
    pickles = [{"plain.pkl": pickle.dumps(PLAIN, protocol)} for protocol in range(6)]
    names = b"Missing skeletons\n\nS001C002P005R002A008\nS001C002P006R001A008.skeleton\ndata/S002C003P007R001A060, 12\n"
    cache, run = _cache(work, own), _run(work)
    encoder = _encoder(work, own)
    models = _models(work, encoder)
    zip_file = Inside(oracles.members, archive)
    clips = [{"clip.npy": _npy(array)} for array in _arrays()] + [{"clip.npy": _npy(_arrays()[0], (2, 0))}]
    zipped = [{"clip.npz": archive({"arr_0.npy": _npy(_arrays()[0])}, deflated)} for deflated in (False, True)]
    npz = {"read": lambda root: folder.read_clip(root / "clip.npz"), "expected": _of_npz}
    ctr = {"seeds": [_ctr_gcn(False), _ctr_gcn(True)], "read": _read_ctr_gcn, "expected": oracles.ctr_gcn}
    return {
        "bvh": Target([{"clip.bvh": _bvh(*seed)} for seed in ((3,), (12,), (10, "\r\n"))], _read_bvh, oracles.bvh),
        "asf": Target([{"01.asf": ASF}], _read_asf, oracles.asf),
        "amc": Target(
            [{"01.asf": ASF, "01_01.amc": _amc(*seed)} for seed in ((2,), (10,), (3, ":fully-specified\n:radians\n"))],
            _read_amc, partial(oracles.amc, channels=CHANNELS), steady=frozenset({"01.asf"}),
        ),
        "cmu-labels": Target(
            [{"labels.csv": TRIALS}, {"labels.csv": TRIALS_BY_FILE}],
            lambda root: [each[1:] for each in cmu.read_trials(root / "labels.csv")], oracles.trials,
        ),
        "pku-mmd": Target([_pku(3), _pku(9)], _read_pku, oracles.pku_mmd),
        "ntu": Target(
            [{NAMES[0]: _skeleton(*seed)} for seed in (([[1], [1]], "\r\n"), ([[7], [7, 8]], "\n"))],
            _read_skeleton, oracles.skeleton, refusals=(ValueError,),
        ),
        "ntu-missing": Target(
            [{"missing.txt": names}],
            lambda root: list(dict.fromkeys(ntu.missing_names(root / "missing.txt"))),
            oracles.missing_names,
        ),
        "nw-ucla": Target([_nw_ucla()], _read_nw_ucla, oracles.nw_ucla),
        "folder-labels": Target(
            [{"labels.csv": LABELS}],
            lambda root: [tuple(row.get(name, "") for name in folder.COLUMNS[:4]) for row in folder.read_labels(root)],
            oracles.labels,
        ),
        "folder-npy": Target(
            clips, lambda root: folder.read_clip(root / "clip.npy"), lambda files: oracles.clip(files["clip.npy"])
        ),
        "folder-npz": Target(zipped, **npz),
        "folder-npz-inside": Target(zipped, **npz, inside=zip_file),
        "ctr-gcn": Target(**ctr),
        "ctr-gcn-inside": Target(**ctr, inside=zip_file),
        "st-gcn": Target([_st_gcn(protocol) for protocol in (0, 2, 4)], _read_st_gcn, oracles.st_gcn),
        "pyskl": Target([_pyskl(protocol) for protocol in (0, 2, 4)], _read_pyskl, oracles.pyskl),
        "coco": Target(_coco(), lambda root: coco.read_clip(root / "clip.json"), oracles.coco),
        "openpose": Target(
            [_openpose(joints) for joints in (25, 18)], lambda root: openpose.read_clip(root / "clip"), oracles.openpose
        ),
        "mediapipe": Target(_mediapipe(), _read_mediapipe, oracles.mediapipe),
        "pickles": Target(
            pickles, lambda root: read_pickle(root / "plain.pkl"),
            lambda files: oracles.plain(oracles.unpickled(files["plain.pkl"])),
        ),
        "prepared": Target([_prepared(work)], _read_prepared),
        "cache": Target([cache], partial(_read_cache, own=own)),
        "encoder": Target([encoder], _read_encoder),
        "encoder-inside": Target(
            [encoder], _read_sealed_encoder, oracles.encoder, inside=_sealed_by("crrl"),
        ),
        "model": Target(models, _read_model),
        "classifier-inside": Target(
            models, _read_classifier, oracles.classifier, steady=frozenset(encoder), inside=_sealed_by(MARK),
        ),
        "config": Target([{"config.json": run["config.json"]}], _read_config, oracles.config),
        "checkpoint": Target([{"checkpoint.pt": run["checkpoint.pt"]}], _read_checkpoint),
    }  # fmt: skip


def _of_npz(files: Files) -> Any:
    (content,) = oracles.members(files["clip.npz"]).values()
    return oracles.clip(content)
