"""The command line: ``python -m core info | run | train | evaluate | records | feedback | learn | versions``."""

from __future__ import annotations

import argparse
import os
import sys

from core.commands import feedback, learn, model, records, versions
from core.errors import UniMedError

GROUPS = (model, records, feedback, learn, versions)
"""Each adds its commands, in this order."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 when it went well, 1 when it found what should not be, 2 with a sentence on standard error when
    the user can mend it."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if hasattr(options, "overrides") and not any(one.startswith("-") for one in others):
        options.overrides += others  # argparse takes them in one place alone
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        return options.command(options) or 0
    except UniMedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m core", description="UniMed Studio's model from the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
