"""`fuzz`: small valid files of every reader, mutated one at a time: read rightly or refused, in bounds, or a fault."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import re
import struct
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from tests.campaigns import guard, oracles
from tests.campaigns.targets import Files, Inside, Target, agree, build

KINDS = ("refused", "read", "unclear", "same", "wrong", "exception", "memory", "time", "crash")
FAULTS = KINDS[4:]
READERS = ("crrl.runs", "crrl.sealed", "crrl.classifier", "crrl.facts", "crrl.files")
"""What reads beside crrl.data."""
TRICKS = (
    "-0", "1e39", "-1e39", "1e400", "1e-400", "nan", "inf", "-inf", "NaN", "1_0", "0x10", "1,5", "1;5", "+", "-",
    ".", "..", "1.", ".5", "+2", "--1", "1e5", "1d5", "1e", "1e+", "00012", "99999999999999999999", "2147483648",
    "4294967296", "-1", "0", "1", "1000001", "true", "null", "1/2", "1.5.2", "0.1e-5", "1E2", "(1", "[1", '"1"',
    "'1'",
)  # fmt: skip
CHARACTERS = [
    *"\r\n\t\0\x0b\x0c\x1c\x1a\x7f ,:;-+.#{}[]()\"'/\\",
    "\x85",
    "\u2028",
    "\xa0",
    "\ufeff",
    "\u0661",
    "\udcff",
]
EXTREMES = (0, 1, -1, 127, 128, 255, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?")
_WORD = re.compile(rb"[^\s]+")


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) + 1)
    return content[:first] if rng.random() < 0.5 else content[:first] + content[first + rng.randrange(1, 40) :]


def splice(content: bytes, rng: random.Random) -> bytes:
    source, target = rng.randrange(len(content)), rng.randrange(len(content))
    piece = content[source : source + rng.choice((1, 4, 16, 64, 256))]
    return content[:target] + piece + content[target + rng.choice((0, len(piece))) :]


def lines(content: bytes, rng: random.Random) -> bytes:
    """A line doubled, left out, exchanged for another, joined with the next, or without a word."""
    rows = content.splitlines(keepends=True)
    a, b = rng.randrange(len(rows)), rng.randrange(len(rows))
    kind = rng.randrange(5)
    if kind == 0:
        rows.insert(b, rows[a])
    elif kind == 1:
        del rows[a]
    elif kind == 2:
        rows[a], rows[b] = rows[b], rows[a]
    elif kind == 3:
        rows[a] = rows[a].rstrip() + b" "
    else:
        words = rows[a].split(b" ")
        del words[rng.randrange(len(words))]
        rows[a] = b" ".join(words)
    return b"".join(rows)


def digits(content: bytes, rng: random.Random) -> bytes:
    """Another number in place of one."""
    found = list(_NUMBER.finditer(content))
    if not found:
        return flip(content, rng)
    match = rng.choice(found)
    new = rng.choice(TRICKS).encode()
    if rng.random() < 0.4:
        new = str(rng.randrange(10 ** rng.randrange(1, 8))).encode() + rng.choice((b"", b".5", b"e-2"))
    return content[: match.start()] + new + content[match.end() :]


def character(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    new = rng.choice(CHARACTERS).encode("utf-8", "surrogateescape")
    return content[:place] + new + content[place + rng.randrange(2) :]


def word(content: bytes, rng: random.Random) -> bytes:
    """Another of the file's words in place of one, or the same in another case."""
    found = list(_WORD.finditer(content))
    if not found:
        return flip(content, rng)
    match, other = rng.choice(found), rng.choice(found)[0]
    new = rng.choice((other, match[0].swapcase(), match[0] * 2, b"", match[0] + b" " + other))
    return content[: match.start()] + new + content[match.end() :]


def integer(content: bytes, rng: random.Random) -> bytes:
    """A whole number of 1 to 8 bytes in place of some, for formats that are not text."""
    size = rng.choice((1, 2, 4, 8))
    place = rng.randrange(max(1, len(content) - size))
    value = rng.choice(EXTREMES) % (1 << (8 * size))
    return (
        content[:place] + struct.pack(rng.choice("<>") + "BHIQ"[size.bit_length() - 1], value) + content[place + size :]
    )


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(flip, cut, splice, lines, digits, character, word, integer),
)


def mutated(content: bytes, rng: random.Random, inside: Inside | None) -> bytes:
    if inside:
        parts = inside.apart(content)
        name = rng.choice(sorted(parts))
        return inside.whole({**parts, name: mutated(parts[name], rng, None)})
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        content = rng.choice(MUTATIONS)(content, rng) if content else content
    return content


class Folder:
    """The files of a target's seeds in folders of their own; one at a time is another."""

    def __init__(self, root: Path, target: Target):
        self.target = target
        self.roots = [root / str(place) for place in range(len(target.seeds))]
        for place in range(len(self.roots)):
            self.put(place, target.seeds[place])
        self.values = [target.read(root) for root in self.roots] if target.expected is None else []

    def put(self, place: int, files: Files) -> None:
        for name, content in files.items():
            path = self.roots[place] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def judge(self, name: str, place: int, changed: Files) -> tuple[str, object]:
        """What comes of the seed at `place` with these files changed: one of KINDS, and why."""
        target = self.target
        self.put(place, changed)
        try:
            kind, found = guard.fault_of(lambda: target.read(self.roots[place]), target.refusals)
        finally:
            self.put(place, {each: target.seeds[place][each] for each in changed})
        if kind == "refused" and "\n" in str(found):
            return "wrong", f"a refusal of several lines: {found!s:.200}"
        if kind != "read":
            return kind, found
        if target.expected is None:
            return (
                ("same", "") if agree(name, found, self.values[place]) else ("wrong", "another value than the seed's")
            )
        try:
            expected = target.expected({**target.seeds[place], **changed})
        except oracles.Unclear:
            return "unclear", ""
        except Exception as error:
            return "wrong", f"it must be refused: {error!r:.200}"
        if agree(name, found, expected):
            return "read", ""
        return "wrong", f"{found!s:.300} is not {expected!s:.300}".replace("\n", " ")


def case(target: Target, seed: str) -> tuple[int, Files]:
    """The seed and its mutated file of one case."""
    rng = random.Random(seed)
    place = rng.randrange(len(target.seeds))
    name = rng.choice(sorted(target.seeds[place].keys() - target.steady))
    return place, {name: mutated(target.seeds[place][name], rng, target.inside)}


class Board(ctypes.Structure):
    """What processes share: the count of each kind, the case at work, the longest time in microseconds."""

    _fields_ = (("counts", ctypes.c_int64 * len(KINDS)), ("at", ctypes.c_int64), ("slowest", ctypes.c_int64))

    def add(self, kind: str) -> None:
        self.counts[KINDS.index(kind)] += 1

    def total(self) -> Counter[str]:
        return Counter(dict(zip(KINDS, self.counts, strict=True)))


def new_board() -> Board:
    return Board.from_buffer(mmap.mmap(-1, ctypes.sizeof(Board)))


def report(options: Namespace, name: str, number: object, kind: str, why: object, files: Files) -> None:
    """Name a fault on stderr, and keep its files."""
    if not options.unnamed:
        print(f"{kind}: --reader {name} --seed {options.seed} --first {number}: {why}", file=options.err, flush=True)
    if options.keep:
        place = options.keep / f"{name}-{options.seed}-{number}"
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)


def work(options: Namespace, name: str, target: Target, root: Path, board: Board, first: int, last: int) -> int:
    folder = Folder(root, target)
    guard.limit_memory()
    for number in range(first, last):
        board.at = number
        place, files = case(target, f"{options.seed}/{name}/{number}")
        since = time.process_time()
        kind, why = folder.judge(name, place, files)
        board.slowest = max(board.slowest, round(1e6 * (time.process_time() - since)))
        board.add(kind)
        if kind in FAULTS:
            report(options, name, number, kind, why, files)
    return 0


def watch(pid: int, board: Board) -> int | None:
    """The exit code of a worker; None where a case hangs, and the worker then is ended."""
    at, since = -1, time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if board.at != at:
            at, since = board.at, time.monotonic()
        if time.monotonic() - since > guard.HANGS:
            guard.kill(pid)
            return None
        time.sleep(0.02)


def fuzz(options: Namespace, name: str, target: Target, root: Path) -> Counter[str]:
    """All cases of a reader, in a process that is started again where it dies."""
    board, first, last = new_board(), options.first, options.first + options.count
    while first < last:
        board.at = first
        rest = partial(work, options, name, target, root, board, first, last)
        code = watch(guard.start(rest, quiet=False), board)
        if code == 0:
            break
        if code == guard.FAILED:
            raise RuntimeError(f"the campaign itself has failed on {name}")
        kind, first = "crash" if code is not None else "time", board.at + 1
        board.add(kind)
        report(options, name, board.at, kind, f"exit code {code}", case(target, f"{options.seed}/{name}/{board.at}")[1])
    counts = board.total()
    print(f"  {name}: {summary(counts)}; slowest {board.slowest / 1000:.1f} ms", flush=True)
    return counts


def summary(counts: Counter[str]) -> str:
    taken = (
        f"{counts['refused']} refused, {counts['read'] + counts['same']} read rightly, {counts['unclear']} not judged"
    )
    faults = ", ".join(f"{counts[kind]} {kind}" for kind in FAULTS if counts[kind]) or "0 faults"
    return f"{sum(counts.values())} files: {taken}, {faults}"


def _functions_of_readers() -> list[FunctionType]:
    """All functions of crrl.data and of what reads run folders, those of classes included."""
    found: dict[FunctionType, None] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("crrl.data.") or name in READERS:
            owners = [module, *(each for each in vars(module).values() if isinstance(each, type))]
            values = [each for owner in owners for each in vars(owner).values()]
            found |= {each: None for each in values if isinstance(each, FunctionType) and each.__module__ == name}
    return list(found)


def explore(options: Namespace, name: str, target: Target, root: Path) -> Counter[str]:
    """As many cases by atheris, which keeps what takes the reader to lines that it has not seen."""
    board = new_board()

    def run() -> int:
        import atheris

        for function in _functions_of_readers():
            atheris.instrument_func(function)
        folder = Folder(root, target)
        sound = {content for seed in target.seeds for content in seed.values()}
        guard.limit_memory()

        def one(data: bytes) -> None:
            place = board.at % len(target.seeds)
            names = sorted(target.seeds[place].keys() - target.steady)
            files = {names[board.at % len(names)]: data}
            kind, why = folder.judge(name, place, files)
            if kind == "wrong" and data in sound:  # a whole file of another seed, which the corpus begins with
                kind = "unclear"
            board.at += 1
            board.add(kind)
            if kind in FAULTS:
                report(options, name, f"coverage-{board.at}", kind, why, files)

        corpus = root / "corpus"
        corpus.mkdir()
        for place, seed in enumerate(target.seeds):
            for each, content in seed.items():
                if each not in target.steady:
                    (corpus / f"{place}-{each.replace('/', '-')}").write_bytes(content)
        atheris.Setup(
            [
                "fuzz",
                f"-runs={options.count}",
                f"-seed={options.seed + 1}",
                "-max_len=8192",
                "-verbosity=0",
                str(corpus),
            ],
            one,
        )
        atheris.Fuzz()
        return 0

    if guard.wait(guard.start(run, quiet=False), 24 * 3600) != 0:
        board.add("crash")
    counts = board.total()
    print(f"  {name}, by coverage: {summary(counts)}", flush=True)
    return counts


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--reader", nargs="+", default=[], help="these alone; all without it")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each reader")
    parser.add_argument("--coverage", action="store_true", help="by atheris (pip install atheris)")
    parser.add_argument("--keep", type=Path, help="folder for files that were faults")
    parser.add_argument("--unnamed", action="store_true", help="count faults without naming each")


def main(options: Namespace) -> tuple[str, int]:
    """Cases of each reader: what came of them, and the number of faults."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    options.err = sys.stderr
    if options.coverage:
        try:
            import atheris  # noqa: F401
        except ImportError:
            return "skipped: by coverage needs atheris (pip install atheris)", 0
    total: Counter[str] = Counter()
    with guard.work_folder() as root:
        (root / "work").mkdir()
        found = build(root / "work")
        for name in options.reader or found:
            each: Any = explore if options.coverage else fuzz
            total += each(options, name, found[name], root / name)
    return f"{len(options.reader or found)} readers, {summary(total)}", sum(total[kind] for kind in FAULTS)
