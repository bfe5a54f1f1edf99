"""Small parsers, written apart from the readers: what a file must be read as, or that it must not be read.

Each takes the contents of a target's files and returns what its reader gives. `Unclear`: the file is written in a way
that the parser does not know; what a reader makes of it is not judged. ValueError: no reader may take it.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

Files = dict[str, bytes]
LARGEST = float(np.finfo(np.float32).max)
AXES = "xyz"


class Unclear(Exception):
    """The parser cannot tell."""


def number(word: str) -> float:
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", word) or not abs(float(word)) <= LARGEST:
        raise ValueError(word)
    return float(word)


def row(text: str) -> list[float]:
    return [number(word) for word in re.split(r"[ \t]+", text.strip(" \t"))]


def lines(content: bytes) -> list[str]:
    """Lines that are not blank, without space around them."""
    text = content.decode().removeprefix("\ufeff").removesuffix("\x1a")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise ValueError("unprintable")
    if "\n" in text and re.search(r"\r(?!\r*\n|\r*\Z)", text):
        raise ValueError("a lone carriage return")
    found = [line.strip() for line in re.split(r"[\r\n]", text)]
    if any(not line.isascii() or "\t" in line for line in found):
        raise Unclear
    return [line for line in found if line]


def bvh(files: Files) -> Any:
    """Names, parents, offsets, channels, motion and frame time of a file with one item a line."""
    head, motion = [], lines(files["clip.bvh"])
    while motion and motion[0].lower() != "motion":
        head.append(motion.pop(0))
    names: list[str] = []
    parents: list[int] = []
    offsets: dict[int, list[float]] = {}
    channels: dict[int, tuple[str, ...]] = {}
    above: list[int] = []
    if not head or head[0].lower() != "hierarchy":
        raise Unclear
    for line in head[1:]:
        word, _, rest = line.partition(" ")
        if line in "{}":
            above = [*above, len(names) - 1] if line == "{" else above[:-1]
        elif "{" in line or "}" in line:
            raise Unclear
        elif word.lower() in ("root", "joint") or line.lower() == "end site":
            parents.append(above[-1] if above else -1)
            names.append(f"{names[above[-1]]}_end" if line.lower() == "end site" else rest.strip())
        elif word.lower() == "offset" and len(rest.split()) == 3:
            offsets[above[-1]] = row(rest)
        elif word.lower() == "channels":
            count, *kinds = rest.lower().split() or [""]
            if count != str(len(kinds)):
                raise Unclear
            channels[above[-1]] = tuple(kinds)
        else:
            raise Unclear
    times = [line.split(":")[1] for line in motion[1:3] if line.lower().startswith("frame time:")]
    rows = [row(line) for line in motion[3:]]
    if len(times) != 1:
        raise Unclear
    return (
        names,
        parents,
        [offsets[joint] for joint in range(len(names))],
        [channels.get(joint, ()) for joint in range(len(names))],
        np.array(rows),
        number(times[0].strip()),
    )


def rotation(angle: float, axis: str) -> np.ndarray:
    """By Rodrigues' formula; degrees."""
    k = np.zeros((3, 3))
    i, j = (AXES.index(axis) + 1) % 3, (AXES.index(axis) + 2) % 3
    k[j, i], k[i, j] = 1, -1
    turn = np.deg2rad(angle)
    return np.eye(3) + np.sin(turn) * k + (1 - np.cos(turn)) * k @ k


def _turned(angles: list[float], order: str) -> np.ndarray:
    total = np.eye(3)
    for axis in order.lower():
        total = rotation(angles[AXES.index(axis)], axis) @ total
    return total


def asf(files: Files) -> Any:
    """Unit, joints and their parents, channels, axes and offsets by name."""
    text = [" ".join(re.split(r"[ ,()]+", line.partition("#")[0])).strip() for line in lines(files["01.asf"])]
    sections: dict[str, list[str]] = {}
    for line in filter(None, text):
        if line.startswith(":"):
            key, _, rest = line.partition(" ")
            section = sections.setdefault(key.lower(), [])
            line = rest.strip()
        if line:
            section.append(line)
    units = {line.partition(" ")[0].lower(): line.partition(" ")[2] for line in sections[":units"]}
    if not units["angle"].lower().startswith("deg"):
        raise Unclear
    found = {"root": _bone(sections[":root"], "root")}
    inside: list[str] = []
    for line in sections[":bonedata"]:
        if line.lower() == "begin":
            inside = []
        elif line.lower() == "end":
            name = next(each.split(" ", 1)[1] for each in inside if each.lower().startswith("name "))
            found[name] = _bone(inside, name)
        else:
            inside.append(line)
    parents = {"root": ""}
    for line in sections[":hierarchy"]:
        parent, *children = ("root" if word.lower() == "root" else word for word in line.split())
        parents |= dict.fromkeys(children, parent)
    return number(units["length"]), {name: (parents[name], *bone) for name, bone in found.items()}


def _bone(block: list[str], name: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    fields = {}
    for line in block:
        word, _, rest = line.partition(" ")
        if word[0] not in "-+.0123456789":
            fields[word.lower()] = rest
    if name == "root":
        axes = _turned(row(fields["orientation"]), fields["axis"])
        return tuple(fields["order"].lower().split()), axes, np.array(row(fields["position"]))
    *angles, order = fields["axis"].split()
    direction, length = np.array(row(fields["direction"])), number(fields["length"])
    norm = np.linalg.norm(direction)
    if length and abs(norm - 1) > 0.001:
        direction = direction / norm
    return tuple(fields.get("dof", "").lower().split()), _turned(row(" ".join(angles)), order), direction * length


def amc(files: Files, channels: dict[str, tuple[str, ...]]) -> Any:
    frames: list[dict[str, list[float]]] = []
    radians = False
    for line in lines(files["01_01.amc"]):
        name, _, rest = line.partition(" ")
        if line.startswith("#"):
            continue
        if line.startswith(":"):
            radians |= line.lower() == ":radians"
        elif re.fullmatch(r"[0-9]+", line):
            frames.append({})
        else:
            frames[-1]["root" if name.lower() == "root" else name] = row(rest)
    values = [[value for joint in channels for value in frame[joint]] for frame in frames]
    if any(len(frame) != len(channels) for frame in frames):
        raise ValueError
    turns = [kind[0] == "r" and not radians for kinds in channels.values() for kind in kinds]
    return np.where(turns, np.deg2rad(np.array(values)), np.array(values))


def moved(frames: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Joints that are present but lie at the origin, a micrometre beside it; float32."""
    frames = frames.astype(np.float32)
    frames[..., 0] = np.where(present & ~frames.any(axis=-1), np.float32(1e-6), frames[..., 0])
    return frames


def pku_mmd(files: Files) -> Any:
    """The clips with their names, actions and whether they train."""
    sides: list[list[str]] = []
    for line in lines(files["split/cross-subject.txt"]):
        if line.endswith(":"):
            sides.append([])
        else:
            sides[-1] += [name for name in re.split(r"[ ,]+", line) if name]
    found = {}
    for video in sorted({*sides[0], *sides[1]}):
        frames = np.array([row(line) for line in lines(files[f"skeleton/{video}.txt"])])
        frames = frames.reshape(-1, 2, 25, 3)
        content = files[f"label/{video}.txt"].decode().removeprefix("\ufeff").removesuffix("\x1a")
        for place, line in enumerate(re.split(r"\n", content) if "\n" in content else content.split("\r"), 1):
            if not line.strip():
                continue
            action, first, end, _ = (int(word) for word in line.split(","))
            clip = frames[first:end]
            if clip.any():
                shown = np.broadcast_to(clip.any(axis=(2, 3))[..., None], clip.shape[:3])
                found[f"{video}:{place}"] = (action, video in sides[0], moved(clip, shown).reshape(-1, 50, 3))
    return found


def skeleton(files: Files) -> Any:
    """The number of frames, and of each body its frames and joints."""
    text = iter(files["S001C001P001R001A001.skeleton"].rstrip().split(b"\n"))
    frames, bodies = int(_digits(next(text))), {}
    for frame in range(frames):
        for _ in range(int(_digits(next(text)))):
            body = bodies.setdefault(int(next(text).split()[0]), {})
            if frame in body or int(_digits(next(text))) != 25:
                raise ValueError
            body[frame] = [[number(word) for word in _words(next(text))[:3]] for _ in range(25)]
    if next(text, None) is not None:
        raise ValueError
    return frames, {
        name: (list(body), np.array(list(body.values()), np.float32).reshape(-1, 25, 3))
        for name, body in bodies.items()
    }


def _digits(line: bytes) -> bytes:
    line = line.rstrip(b"\r").strip(b" \t")
    if not re.fullmatch(rb"[0-9]+", line):
        raise ValueError
    return line


def _words(line: bytes) -> list[str]:
    words = re.split(rb"[ \t]+", line.rstrip(b"\r").strip(b" \t"))
    if len(words) != 12:
        raise ValueError
    for word in words:
        if not re.fullmatch(rb"-?(inf|infinity|nan)", word, re.IGNORECASE):
            float(re.fullmatch(rb"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", word)[0])
    return [word.decode() for word in words]


def missing_names(files: Files) -> Any:
    """All names that stand whole in the list, each once; what is almost one must be refused."""
    text = files["missing.txt"].decode().upper()
    return list(dict.fromkeys(re.findall(r"S[0-9]{3}C[0-9]{3}P[0-9]{3}R[0-9]{3}A[0-9]{3}", text)))


def nw_ucla(files: Files) -> Any:
    """The numbers between the brackets after "skeletons", in the order in which they stand."""
    found = []
    for name in sorted(files):
        text = files[name].decode().removeprefix("\ufeff")
        if text.count('"skeletons"') != 1 or "\\u" in text:
            raise Unclear
        inside = text.partition('"skeletons"')[2].partition("]]]")[0]
        words = [word for word in re.split(r"[\s\[\]:,]+", inside) if word]
        if any(word.lower() in ("true", "false", "null") for word in words):
            raise ValueError
        found.append(np.array([number(word) for word in words], np.float64).astype(np.float32).reshape(-1, 20, 3))
    return found


def table(content: bytes) -> Iterator[dict[str, str]]:
    """The rows of a CSV file without quotes."""
    text = content.decode().removeprefix("\ufeff")
    if '"' in text or "\r" in text.replace("\r\n", "") or not text.isascii() or re.search(r"[\x1c-\x1f\x0b\x0c]", text):
        raise Unclear
    header, *rows = (
        [field.strip() for field in line] for line in csv.reader(io.StringIO(text)) if "".join(line).strip()
    )
    for fields in rows:
        yield {name.lower(): field for name, field in zip(header, [*fields, *[""] * len(header)], strict=False)}


def labels(files: Files) -> Any:
    return [
        (row["file"], row.get("label", ""), row.get("split", "").lower(), row.get("subject", ""))
        for row in table(files["labels.csv"])
    ]


def trials(files: Files) -> Any:
    found = []
    for row in table(files["labels.csv"]):
        numbers = f"{row.get('subject', '').zfill(2)}_{row.get('trial', '').zfill(2)}.amc"
        found.append((row["file"].rstrip("/").rpartition("/")[2] if "file" in row else numbers, row["label"]))
    return found


def array(content: bytes) -> np.ndarray:
    """A .npy file of real numbers, by the definition of its format; float64, or int where it holds whole numbers."""
    major = content[6]
    size = struct.unpack("<H" if major == 1 else "<I", content[8 : 10 if major == 1 else 12])[0]
    start = (10 if major == 1 else 12) + size
    facts = ast.literal_eval(content[start - size : start].decode("latin1"))
    order, kind, width = facts["descr"][0], facts["descr"][1], int(facts["descr"][2:])
    code = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
        f"{sign}{1 << place}": (letter.upper() if sign == "u" else letter)
        for sign in "iu"
        for place, letter in enumerate("bhiq")
    }
    shape = facts["shape"]
    body = content[start:]
    if content[:6] != b"\x93NUMPY" or len(body) != width * int(np.prod(shape, dtype=object)):
        raise ValueError
    values = struct.unpack(f"{'>' if order == '>' else '<'}{len(body) // width}{code[f'{kind}{width}']}", body)
    flat = np.array(values, np.float64 if kind == "f" else None)
    return flat.reshape(shape[::-1]).T if facts["fortran_order"] else flat.reshape(shape)


def clip(content: bytes) -> np.ndarray:
    """A folder's clip, float32 [T, J, 3]."""
    found = array(content)
    with np.errstate(over="ignore"):
        frames = found.astype(np.float32)
    if found.dtype == bool or frames.ndim != 3 or frames.shape[2] != 3 or 0 in frames.shape:
        raise ValueError
    if not np.isfinite(frames).all():
        raise ValueError
    return frames


def members(content: bytes) -> Files:
    """What an archive holds; its checksums must be right, but are Python's to check."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def ctr_gcn(files: Files) -> Any:
    """The clips that show anybody, each with its class, and whether it trains."""
    inside = members(files["NTU60_CS.npz"])
    found = []
    for side in ("train", "test"):
        x, y = (array(inside[f"{name}_{side}.npy"]) for name in "xy")
        for frames, one_hot in zip(x.reshape(len(x), -1, 2, 25, 3), y, strict=True):
            if sorted(one_hot.tolist()) != [0] * (len(one_hot) - 1) + [1]:
                raise ValueError
            found.append((int(np.argmax(one_hot)), side == "train", _filled(frames)))
    return [each for each in found if len(each[2])]


def _filled(bodies: np.ndarray) -> np.ndarray:
    """Bodies [T, 2, 25, 3] without the zeros at the end, float32 [T, 50, 3]."""
    while len(bodies) and not bodies[-1].any():
        bodies = bodies[:-1]
    with np.errstate(over="ignore"):
        frames = moved(bodies, np.broadcast_to(bodies.any(axis=(2, 3))[..., None], bodies.shape[:3]))
    if not np.isfinite(frames).all():
        raise ValueError
    return frames.reshape(-1, 50, 3)


def st_gcn(files: Files) -> Any:
    found = []
    for side in ("train", "val"):
        x = array(files[f"{side}_data.npy"])
        names, labels = unpickled(files[f"{side}_label.pkl"])
        for name, label, values in zip(names, labels, x, strict=True):
            bodies = values.transpose(1, 3, 2, 0)
            first = bodies[:, 0]
            period = len(bodies)
            if first[0].any():
                period = next((p for p in range(2, len(first)) if (first[p:] == first[:-p]).all()), period)
                period = len(bodies) if (first[1:] == first[:-1]).all() else period
            found.append((name, label, side == "train", _filled(bodies[:period])))
    return [each for each in found if len(each[3])]


class _Plain(pickle.Unpickler):
    """Python's own, in C, which may name what NumPy's arrays are made of, and no more."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "dtype":
            return _dtype
        if name in ("_reconstruct", "ndarray", "scalar", "_frombuffer", "encode", "bytearray", "bytes"):
            return super().find_class(module, name)
        if name == "complex":
            return complex
        raise Unclear


def _dtype(code: str, *_: object) -> np.dtype:
    """One of its own: a pickle may change it."""
    return np.dtype(code, copy=True)


def unpickled(content: bytes) -> Any:
    """Only for what the reader has taken: nothing else is tried on a pickle."""
    try:
        return _Plain(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        raise Unclear from error


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's; bytes of Python 2, which are text here, and arrays stay as they are."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if not isinstance(value, np.ndarray | str | bytes | bytearray | int | float | complex | None):
        raise Unclear  # a name, a type: nobody reads them
    return value


def pyskl(files: Files) -> Any:
    """The clips of a file of 3D skeletons of at most two bodies, by name."""
    content = plain(unpickled(files["ntu.pkl"]))
    found = {}
    shown = [item for item in content["annotations"] if item["keypoint"].any()]
    most = max((len(item["keypoint"]) for item in shown), default=1)
    for item in shown:
        keypoint = item["keypoint"]
        if keypoint.shape[3] != 3 or len(keypoint) > 2 or item.get("keypoint_score") is not None:
            raise Unclear
        bodies = np.zeros((most, *keypoint.shape[1:]), keypoint.dtype)
        bodies[: len(keypoint)] = keypoint
        bodies = bodies.transpose(1, 0, 2, 3)
        clip = moved(bodies, np.broadcast_to(bodies.any(axis=(2, 3))[..., None], bodies.shape[:3]))
        if not np.isfinite(clip).all():
            raise ValueError
        trains = item["frame_dir"] in content["split"]["xsub_train"]
        found[item["frame_dir"]] = (item["label"], trains, clip.reshape(len(clip), -1, 3))
    return found


def config(files: Files) -> Any:
    return json.loads(files["config.json"])


NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
"""Types of safetensors that NumPy has."""


def _sealed_json(content: bytes | str) -> Any:
    """JSON whose hash is right: that no bit of it changed is known."""
    return json.loads(content, object_pairs_hook=_once)


def _tensors(content: bytes) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header, data = _sealed_json(content[8 : 8 + size]), content[8 + size :]
    metadata, found = header.pop("__metadata__"), {}
    for name, said in header.items():
        if said["dtype"] not in NUMBERS:
            raise Unclear
        first, last = said["data_offsets"]
        found[name] = np.frombuffer(data[first:last], NUMBERS[said["dtype"]]).reshape(said["shape"])
    return metadata, found


def encoder(files: Files) -> Any:
    """What an encoder file says, in the order of its facts, and its arrays."""
    metadata, found = _tensors(files["encoder.safetensors"])
    said = _sealed_json(metadata["crrl"])
    names = ("method", "hidden_size", "dropout", "features", "nuisances", "preprocessor", "fingerprint")
    return [said[name] for name in names], found


def classifier(files: Files) -> Any:
    """The same of a classifier file."""
    metadata, found = _tensors(files["classifier.safetensors"])
    said = _sealed_json(metadata["crrl-classifier"])
    names = ("protocol", "class_names", "double", "fingerprint", "encoder", "refitted", "nuisances")
    return [said[name] for name in names], found


def _json(content: bytes) -> Any:
    """By Python's parser; pairs of a key that comes twice, and what is no JSON by the standard, are not judged."""
    if re.search(rb"\r(?!\n)", content):
        raise ValueError("a lone carriage return")
    return json.loads(content, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Unclear
    return dict(pairs)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(value)
    return float(value)


def _alone(frames: list[list[Any]], joints: int) -> np.ndarray:
    """The clip of one person who is seen whole in every frame, near to where he was: x, y, z, score of each joint."""
    if not all(len(people) == 1 and len(people[0]) == joints for people in frames):
        raise Unclear
    points = np.array([[[_real(value) for value in joint] for joint in people[0]] for people in frames])
    if (points[..., 3] < 0.3).any() or not points[..., :3].any(axis=2).all():
        raise Unclear
    steps = np.linalg.norm(np.diff(points[..., :3], axis=0), axis=2).mean(axis=1)
    if (steps > 0.1 * np.linalg.norm(np.ptp(points[..., :3], axis=1), axis=1).min()).any():
        raise Unclear
    with np.errstate(over="ignore"):
        return (points[..., :3] * (1, -1, -1)).astype(np.float32)


def coco(files: Files) -> Any:
    """Any of the four forms, by what its first frame has."""
    content = _json(files["clip.json"])
    frames = content["instance_info"] if isinstance(content, dict) else content
    first = frames[0]
    found: list[list[Any]] = []
    if isinstance(first, dict) and "image_id" in first:
        rows = {row["image_id"]: row["keypoints"] for row in frames}
        if len(rows) < len(frames) or not all(type(number) is int for number in rows):
            raise Unclear
        numbers = sorted(rows)
        if numbers != list(range(numbers[0], numbers[-1] + 1)):
            raise Unclear
        found = [[[(*rows[n][i : i + 2], 0, *rows[n][i + 2 : i + 3]) for i in range(0, 51, 3)]] for n in numbers]
        if any(len(row) != 51 for row in rows.values()):
            raise ValueError
    ids = [frame.get("frame_id") if isinstance(frame, dict) else None for frame in frames]
    if set(ids) != {None} and ids != list(range(ids[0], ids[0] + len(ids))):
        raise Unclear
    for frame in frames if not found else []:
        if isinstance(frame, dict):
            people = [(person["keypoints"], person["keypoint_scores"]) for person in frame["instances"]]
        elif isinstance(frame[0], dict):
            named = [person["keypoints"] for person in frame]
            people = [(list(zip(each["x"], each["y"], strict=True)), each["visible"]) for each in named]
        else:
            people = list(zip(*frame, strict=True))
        found.append([[(x, y, 0, s) for (x, y), s in zip(*person, strict=True)] for person in people])
    return _alone(found, 17)


def openpose(files: Files) -> Any:
    frames = []
    for name in sorted(files):
        people = _json(files[name])["people"]
        rows = [person["pose_keypoints_2d"] for person in people]
        frames.append([[(*row[i : i + 2], 0, *row[i + 2 : i + 3]) for i in range(0, len(row), 3)] for row in rows])
    joints = len(frames[0][0]) if frames[0] else 0
    if joints not in (25, 18):
        raise Unclear
    return _alone(frames, joints)


def mediapipe(files: Files) -> Any:
    """Of coordinates in the image."""
    ((name, content),) = files.items()
    if name == "clip.json":
        names = ("x", "y", "z", "visibility")
        people = [[[tuple(each[key] for key in names) for each in p] for p in f["landmarks"]] for f in _json(content)]
    else:
        rows = list(table(content))
        if "landmark" in rows[0]:
            by_place = {(row["frame"], row["landmark"]): row for row in rows}
            if len(by_place) < len(rows) or [*by_place] != [(str(t), str(j)) for t in range(3) for j in range(33)]:
                raise Unclear
            cells = [[row[key] for key in ("x", "y", "z", "visibility")] for row in rows]
        else:
            cells = [[row[f"{axis}{joint}"] for axis in "xyzv"] for row in rows for joint in range(33)]
        flat = [tuple(number(cell) for cell in each) for each in cells]
        people = [[flat[first : first + 33]] for first in range(0, len(flat), 33)]
    for frame in people:
        for person in frame:
            [_real(each[2]) for each in person]  # it is not read, but a number
    flattened = [[[(x, y, 0, score) for x, y, _, score in person] for person in frame] for frame in people]
    return _alone(flattened, 33)
