"""The console script: `crrl train` is `python -m crrl.train`, and so are the other commands."""

from __future__ import annotations

import sys

from crrl import doctor, embed, evaluate, export, predict, prepare, report, reproduce, train, view
from crrl.errors import run_command

COMMANDS = {
    "view": view.main,
    "prepare": prepare.main,
    "train": train.main,
    "evaluate": evaluate.main,
    "predict": predict.main,
    "embed": embed.main,
    "export": export.main,
    "report": report.main,
    "reproduce": reproduce.main,
    "doctor": doctor.main,
}


def main() -> int:
    """Run the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: crrl {{{','.join(COMMANDS)}}} [options]; --help after the command lists them", file=sys.stderr)
        return 2
    command, arguments = COMMANDS[sys.argv[1]], sys.argv[2:]
    return run_command(lambda: command(arguments))


if __name__ == "__main__":
    sys.exit(main())
