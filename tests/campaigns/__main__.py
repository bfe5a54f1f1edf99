"""`python -m tests.campaigns NAME [--count N] [--seed S]`: a campaign. Its last line counts; on a fault it exits 1."""

from __future__ import annotations

import importlib
import sys
import time
from argparse import ArgumentParser

NAMES = {"kill": 100, "fuzz": 2000, "bombs": 1, "disk": 60, "threads": 20}
"""The campaigns, and how many cases each takes: kills, files of each reader, rounds over all bombs, disks, rounds."""


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, count in NAMES.items():
        module = importlib.import_module(f"tests.campaigns.{name}")
        command = commands.add_parser(name, help=module.__doc__.partition("\n")[0])
        command.add_argument("--count", type=int, default=count)
        command.add_argument("--seed", type=int, default=0)
        module.arguments(command)
    options = parser.parse_args()
    since = time.monotonic()
    said, faults = importlib.import_module(f"tests.campaigns.{options.name}").main(options)
    print(f"{options.name}: {said}; seed {options.seed}, {time.monotonic() - since:.0f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
