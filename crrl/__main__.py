"""The console script: `crrl train` runs `python -m crrl.train`, and so on for the other commands."""

from __future__ import annotations

import sys
from importlib import import_module

import crrl
from crrl.errors import run_command

COMMANDS = {
    "view": "draw a clip, or a sheet of a data set",
    "prepare": "read a data set's raw files once, into a folder that loads fast",
    "train": "pretrain on skeletons without labels; without options, on the embedded data set",
    "evaluate": "score a run's encoder, beside a random one and raw coordinates",
    "predict": "name the action of clips, or of the windows of a long recording",
    "embed": "write the features of clips to a file",
    "export": "write an encoder for ONNX Runtime, or for PyTorch without crrl",
    "report": "make a report page of trained runs",
    "reproduce": "run a table or figure of the paper",
    "doctor": "show this machine's hardware and each operator's backend",
}


def main() -> int:
    """Run the command that the first argument names; returns the exit code."""
    first, *arguments = sys.argv[1:] or [""]
    if first in ("-h", "--help", "help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"crrl {crrl.__version__}")
        return 0
    if first not in COMMANDS:
        print(f"{first!r} is not a command of crrl\n\n{usage()}" if first else usage(), file=sys.stderr)
        return 2
    command = import_module(f"crrl.{first}")
    return run_command(lambda: int(command.main(arguments)))


def usage() -> str:
    """The usage text: the commands, one per line."""
    lines = [f"  {name:10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: crrl COMMAND [options]", "", *lines, "", "crrl COMMAND --help lists its options."])


if __name__ == "__main__":
    sys.exit(main())
