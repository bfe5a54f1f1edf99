"""`bombs`: small files made to take much memory or time: each is refused, or read, within 1 GB and 10 s."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import warnings
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from crrl.data import prepared
from crrl.data.preprocessing import Preprocessing, Preprocessor
from crrl.data.readers import asf, bvh, ctr_gcn, folder, ntu, nw_ucla, pku_mmd, pyskl, st_gcn
from crrl.data.readers.pickles import read_pickle
from crrl.errors import CrrlError
from crrl.runs import FORMAT, RunFolder, load_encoder
from tests.campaigns import guard
from tests.campaigns.targets import ASF, archive

Bomb = Callable[[Path], Callable[[], Any]]
BOMBS: dict[str, Bomb] = {}
HARMLESS: set[str] = set()
"""Those that may be read, within the limits."""
MB = 1 << 20


def bomb(name: str, harmless: bool = False) -> Callable[[Bomb], Bomb]:
    """Enter what lays a bomb into a folder and returns the call that reads it."""

    def enter(lay: Bomb) -> Bomb:
        BOMBS[name] = lay
        if harmless:
            HARMLESS.add(name)
        return lay

    return enter


def of_file(
    name: str, file: str, content: bytes | Callable[[], bytes], read: Callable[[Path], Any], harmless: bool = False
) -> None:
    """A bomb that is one file."""

    def lay(root: Path) -> Callable[[], Any]:
        (root / file).write_bytes(content if isinstance(content, bytes) else content())
        return lambda: read(root / file)

    bomb(name, harmless)(lay)


def of_files(
    file: str, read: Callable[[Path], Any], bombs: dict[str, bytes | Callable[[], bytes]], harmless: Container[str] = ()
) -> None:
    """Bombs that are one file each, of one name and reader."""
    for name, content in bombs.items():
        of_file(name, file, content, read, name in harmless)


def _zeros(member: str, header: bytes, size: int) -> bytes:
    """A deflated archive of a file of zeros after a header."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target,
        target.open(member, "w", force_zip64=True) as stream,
    ):
        stream.write(header)
        for _ in range(size // MB):
            stream.write(bytes(MB))
    return file.getvalue()


def _header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _bvh(joints: str, frames: int, row: str = "0 0 0 0 0 0") -> bytes:
    head = "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\nCHANNELS 6 " + " ".join(
        f"{a}{k}" for k in ("position", "rotation") for a in "XYZ"
    )
    return f"{head}\n{joints}}}\nMOTION\nFrames: {frames}\nFrame Time: 0.03\n{(row + chr(10)) * frames}".encode()


of_files(
    "a.bvh",
    bvh.read_file,
    {
        "bvh: a joint's name of 1 MB": lambda: _bvh(f"JOINT {'a' * MB}\n{{\nOFFSET 0 0 0\n}}\n", 9),
        "bvh: 100,000 joints in each other": lambda: (
            b"HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n" + b"JOINT a\n{\nOFFSET 0 0 0\n" * 100_000
        ),
        "bvh: 10 MB of braces": lambda: b"HIERARCHY\nROOT a\n" + b"{" * 10 * MB,
        "bvh: 10^12 frames announced": lambda: _bvh("", 3).replace(b"Frames: 3", b"Frames: 1e12"),
        "bvh: a number of 10 million digits": lambda: _bvh("", 12).replace(
            b"0 0 0 0 0 0\n", b"1" * 10 * MB + b" 0 0 0 0 0\n", 1
        ),
        "bvh: 10 MB of lines of nothing": lambda: b"HIERARCHY\n" + b"\n" * 10 * MB,
    },
)
of_files(
    "1.asf",
    asf.read_skeleton,
    {
        "asf: 200,000 bones": lambda: ASF.replace(
            b":hierarchy",
            b"".join(
                b"begin\nid 1\nname b%d\ndirection 0 1 0\nlength 1\naxis 0 0 0 XYZ\nend\n" % i for i in range(200_000)
            )
            + b":hierarchy",
        ),
        "asf: 10 MB of limits": lambda: ASF.replace(b"limits", b"limits " + b"1 2 " * (10 * MB // 4), 1),
    },
)


@bomb("amc: 10 MB of frames of nothing")
def _(root: Path) -> Callable[[], Any]:
    (root / "1.asf").write_bytes(ASF)
    (root / "1_1.amc").write_bytes(b":FULLY-SPECIFIED\n:DEGREES\n" + b"".join(b"%d\n" % i for i in range(MB)))
    return lambda: asf.read_motion(root / "1_1.amc", asf.read_skeleton(root / "1.asf"))


@bomb("pku-mmd: 1,500 actions of all frames")
def _(root: Path) -> Callable[[], Any]:
    for name in ("split", "skeleton", "label"):
        (root / name).mkdir()
    (root / "split/cross-subject.txt").write_text("Training videos:\n0002-L\nValidation videos:\n0003-R\n")
    for video in ("0002-L", "0003-R"):
        (root / f"skeleton/{video}.txt").write_text(("1 " * 150 + "\n") * 5000)
        (root / f"label/{video}.txt").write_text("6,0,5000,2\n" * 1500)
    return lambda: pku_mmd.load(pku_mmd.find_files(root))


def _read_ctr(path: Path) -> Any:
    return ctr_gcn.load([path])


of_files(
    "a_CS.npz",
    _read_ctr,
    {
        "ctr-gcn: 4 GB of zeros in 4 MB": lambda: _zeros("y_train.npy", _header((4, MB << 8)), 4096 * MB),
        "ctr-gcn: 100,000 empty members": lambda: archive({f"x{i}.npy": b"" for i in range(100_000)}),
    },
)
of_file(
    "folder: 2 GB of zeros in 2 MB (.npz)",
    "a.npz",
    lambda: _zeros("a.npy", _header((MB, 170, 3)), 2040 * MB),
    folder.read_clip,
)
of_files(
    "a.npy",
    folder.read_clip,
    {
        "folder: 4 GB of shape (.npy)": lambda: _header((MB, 341, 3)) + bytes(12),
        "folder: a header of 4 GB (.npy)": b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 32) - 2) + b"{'descr'",
        "folder: a header of 4 GB of no version (.npy)": b"\x93NUMPY\x00\x00"
        + struct.pack("<I", (1 << 32) - 2)
        + b"{'descr'",
        "folder: a header of brackets (.npy)": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
        "folder: 2^63 frames of no joint (.npy)": _header((1 << 62, 0, 3)),
    },
)
of_file(
    "st-gcn: a header of 4 GB (.npy)",
    "a.npy",
    b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 32) - 2) + b"{'descr'",
    st_gcn._open,
)


def _read_labels(path: Path) -> Any:
    return folder.read_labels(path.parent)


of_files(
    "labels.csv",
    _read_labels,
    {
        "labels.csv: 5,000 columns in 5,000 rows": lambda: (
            b"file,label" + b",x" * 5000 + b"\n" + (b"a,b" + b"," * 5000 + b"\n") * 5000
        ),
        "labels.csv: 999 columns in 40,000 rows": lambda: (
            b"file,label" + b",x" * 997 + b"\n" + b"".join(b"%d,b" % i + b"," * 997 + b"\n" for i in range(40_000))
        ),
        "labels.csv: 10 MB of commas": lambda: b"file,label\n" + b"," * 10 * MB,
        "labels.csv: 40 MB of commas in 4 rows": lambda: b"file,label\na,b" + (b"," * 10 * MB + b"\nb,c") * 4,
        "labels.csv: 10 MB of quotes": lambda: b'file,label\n"' + b'"' * 10 * MB,
        "labels.csv: a column's name of 10 MB": lambda: b"file,label," + b"a" * 120_000 + b"\na,b,c\n",
    },
    harmless={"labels.csv: 999 columns in 40,000 rows", "labels.csv: a column's name of 10 MB"},
)

MARKS = b"\x80\x04"
of_files(
    "a.pkl",
    read_pickle,
    {
        "pickle: 20 MB of N": lambda: MARKS + b"N" * 20 * MB,
        "pickle: colliding integers": lambda: pickle.dumps(
            {"a": {i * ((1 << 61) - 1): 0 for i in range(1, 40_000)}}, 4
        ),
        "pickle: colliding negative integers": lambda: pickle.dumps(
            {"a": {-i * ((1 << 61) - 1): 0 for i in range(1, 40_000)}}, 2
        ),
        "pickle: integers that collide in a small table": lambda: pickle.dumps({i << 16: 0 for i in range(1 << 16)}, 4),
        "pickle: 10 million digits": lambda: b"I" + b"1" * 10 * MB + b"\n.",
        "pickle: a long of 10 MB": lambda: MARKS + b"\x8b" + struct.pack("<i", 10 * MB) + b"\x7f" * 10 * MB + b".",
        "pickle: bytes longer than the file": MARKS + b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
        "pickle: text twice as long each time": lambda: MARKS + b"]" + b"2e" * 5 * MB,
    },
    harmless={"pickle: integers that collide in a small table", "pickle: a long of 10 MB"},
)


@bomb("pyskl: joints of 10^9 frames")
def _(root: Path) -> Callable[[], Any]:
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    array += b"(K\x01(K\x01J\x00\xca\x9a;K\x11K\x03t"
    array += b"cnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87R\x89C\x04abcdtb"
    (root / "a.pkl").write_bytes(
        MARKS + b"}(X\x05\0\0\0splitNX\x0b\0\0\0annotations](}X\x08\0\0\0keypoint" + array + b"seu."
    )
    return lambda: pyskl.load(pyskl.find_files(root))


def _annotations(count: int, keypoint: np.ndarray) -> list[dict[str, Any]]:
    """Annotations of one and the same array, which a pickle holds once."""
    return [{"frame_dir": f"{i}", "label": 0, "keypoint": keypoint} for i in range(count)]


def _pyskl(content: Callable[[], Any]) -> Bomb:
    def lay(root: Path) -> Callable[[], Any]:
        (root / "a.pkl").write_bytes(pickle.dumps(content(), 4))
        return lambda: pyskl.load(pyskl.find_files(root))

    return lay


def _shared() -> Any:
    keypoint = np.ones((1, 4000, 17, 3), np.float32)
    return {"split": {"train": ["0"], "val": ["1"]}, "annotations": _annotations(10_000, keypoint)}


def _many_splits() -> Any:
    names = [f"{i}" for i in range(20_000)]
    split = {f"{side}{i}": names for i in range(10_000) for side in ("train", "val")}
    return {"split": split, "annotations": _annotations(20_000, np.ones((1, 1, 1, 3), np.float32))}


bomb("pyskl: an array in 10,000 annotations")(_pyskl(_shared))
bomb("pyskl: 20,000 splits of 20,000 clips")(_pyskl(_many_splits))


@bomb("pyskl: 2^61 joints in no frame")
def _(root: Path) -> Callable[[], Any]:
    keypoint = np.zeros((1, 0, 1 << 20, 3), np.float32)
    content = {"split": {"train": ["0"], "val": ["1"]}, "annotations": _annotations(2, keypoint)}
    raw = pickle.dumps(content, 4).replace(b"J\x00\x00\x10\x00", b"\x8a\x08" + struct.pack("<q", 1 << 61))
    (root / "a.pkl").write_bytes(raw)
    return lambda: pyskl.load(pyskl.find_files(root))


def _read_ntu(path: Path) -> Any:
    try:
        return ntu.read(path.read_bytes())
    except ValueError as error:  # its contract
        raise CrrlError(str(error)) from error


BODY = "0 1 1 0 2 0 -0.03 0.2 2\n25\n" + "0 0 1 0 0 0 0 0 0 0 0 2\n" * 25
of_files(
    "a.skeleton",
    _read_ntu,
    {
        "ntu: 60,000 bodies": lambda: ("1\n60000\n" + "".join(f"{i} {BODY}" for i in range(60_000))).encode(),
        "ntu: 1,000 bodies in 40 frames": lambda: (
            "40\n" + ("1000\n" + "".join(f"{i} {BODY}" for i in range(1000))) * 40
        ).encode(),
        "ntu: 10^9 frames announced": b"999999999\n0\n0\n",
        "ntu: 10^9 bodies announced": b"1\n999999999\n",
        "ntu: 5 million frames of nobody": lambda: b"5000000\n" + b"0\n" * 5_000_000,
        "ntu: one frame of 5 million": lambda: b"5000000\n" + b"0\n" * 4_999_999 + f"1\n7 {BODY}".encode(),
        "ntu: a number of 10 million digits": lambda: (
            "1\n1\n7 " + BODY.replace("0 0 1 ", "1" * 10 * MB + " 0 1 ", 1)
        ).encode(),
    },
    harmless={"ntu: 1,000 bodies in 40 frames", "ntu: 5 million frames of nobody", "ntu: one frame of 5 million"},
)
of_files(
    "a.txt",
    ntu.missing_names,
    {
        "missing list: a word of 10 MB": lambda: b"S" + b"1" * 10 * MB,
        "missing list: 10 MB of almost names": lambda: b"S001C001P001R001A00/" * (MB // 2),
    },
)


def _read_nw(path: Path) -> Any:
    return nw_ucla.load([path])


NW = "a01_s01_e01_v01.json"
of_files(
    NW,
    _read_nw,
    {
        "nw-ucla: 10 MB of [": lambda: b"[" * 10 * MB,
        "nw-ucla: lists in lists in skeletons": lambda: b'{"skeletons":' + b"[" * 900 + b"]" * 900 + b"}",
        "nw-ucla: 20 lists of 10^5 lists": lambda: json.dumps({"skeletons": [[[[1]] * 100_000] * 20]}).encode(),
        "nw-ucla: a number of 10 million digits": lambda: b'{"skeletons": [[[' + b"1" * 10 * MB + b"]]]}",
        "nw-ucla: one long joint among short ones": lambda: json.dumps(
            {"skeletons": [[[1, 2, 3]] * 19 + [[1] * MB]] * 2}
        ).encode(),
    },
)


@bomb("a pipe as a clip")
def _(root: Path) -> Callable[[], Any]:
    os.mkfifo(root / "a.npy")
    return lambda: folder.read_clip(root / "a.npy")


@bomb("a device as a clip")
def _(root: Path) -> Callable[[], Any]:
    (root / "a.npy").symlink_to("/dev/zero")
    return lambda: folder.read_clip(root / "a.npy")


@bomb("manifest.json that names /dev/zero")
def _(root: Path) -> Callable[[], Any]:
    return _manifest(root, "/dev/zero")


@bomb("manifest.json that names a file above its folder")
def _(root: Path) -> Callable[[], Any]:
    return _manifest(root, "../../../../../../../dev/zero")


def _manifest(root: Path, name: str) -> Callable[[], Any]:
    files = dict.fromkeys([*prepared.HELD, name], "0" * 32)
    for each in prepared.HELD:
        (root / each).write_bytes(b"{}")
    (root / "manifest.json").write_text(json.dumps({"format": prepared.FORMAT, "dataset": "folder", "files": files}))
    return lambda: prepared.load(prepared.find_files(root))


def _encoder(**changes: int) -> bytes:
    preprocessor = Preprocessor(Preprocessing(), changes.pop("num_joints", 15)).to_dict()
    facts = {"format": FORMAT, "method": "crrl", "hidden_size": 4, "dropout": 0.0, "features": "paper", "nuisances": 0}
    facts |= {"preprocessor": preprocessor, "fingerprint": "", **changes}
    return save({"weight": torch.zeros(1)}, {"crrl": json.dumps(facts)})


for name in ("hidden_size", "num_joints", "nuisances"):
    of_file(f"encoder: {name} of 10^6", "encoder.safetensors", _encoder(**{name: 10**6}), load_encoder)
    of_file(f"encoder: {name} of 20,000", "encoder.safetensors", _encoder(**{name: 20_000}), load_encoder)
of_file("encoder: a header of 2^62 bytes", "encoder.safetensors", struct.pack("<Q", 1 << 62) + b"{}", load_encoder)
of_file("config.json: 10 MB of [", "config.json", lambda: b"[" * 10 * MB, lambda path: RunFolder(path.parent).config())


def _checkpoint() -> bytes:
    """A checkpoint whose tensor of 4 GB is zeros, deflated."""
    small = io.BytesIO()
    torch.save({"module": torch.zeros(1)}, small)
    out = io.BytesIO()
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            if not info.filename.endswith("data/0"):
                content = source.read(info)
                target.writestr(info.filename, content.replace(b"K\x01tq", b"J\0\0\0\x40tq"))
                continue
            with target.open(info.filename, "w", force_zip64=True) as stream:
                for _ in range(4096):
                    stream.write(bytes(MB))
    return out.getvalue()


of_file(
    "checkpoint: 4 GB of zeros in 4 MB",
    "checkpoint.pt",
    _checkpoint,
    lambda path: RunFolder(path.parent).load_checkpoint(),
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=[], help="bombs whose names begin so")


def main(options: Namespace) -> tuple[str, int]:
    """Each bomb in a process of its own: refused, read where that does no harm, or a fault."""
    warnings.simplefilter("ignore")
    chosen = [name for name in BOMBS if not options.only or name.startswith(tuple(options.only))]
    outcomes: list[str] = []
    for name in chosen * options.count:
        with guard.work_folder() as root:
            kind, why = explode(BOMBS[name](root))
        if kind == "refused" or (kind == "read" and name in HARMLESS):
            outcomes.append(kind)
            continue
        outcomes.append("fault")
        print(f"{kind}: {name}: {why}", file=sys.stderr, flush=True)
    faults = outcomes.count("fault")
    refused, taken = outcomes.count("refused"), outcomes.count("read")
    return f"{len(outcomes)} bombs, {refused} refused, {taken} read in bounds, {faults} faults", faults


def explode(read: Callable[[], Any]) -> tuple[str, str]:
    """What comes of a bomb in a process of its own, and why."""
    source, target = os.pipe()

    def work() -> int:
        guard.limit_memory()
        kind, found = guard.fault_of(read)
        why = type(found).__name__ if kind == "read" else str(found)[:1000]
        os.write(target, f"{kind}\n{why}".encode("utf-8", "replace"))
        return 0

    pid = guard.start(work)
    os.close(target)
    code = guard.wait(pid)
    with open(source, "rb") as file:
        kind, _, why = file.read().decode("utf-8", "replace").partition("\n")
    if code != 0:
        return "crash" if code is not None else "time", f"exit code {code}"
    return kind, why
