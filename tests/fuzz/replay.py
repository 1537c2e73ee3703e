"""python -m tests.fuzz.replay TARGET FILE...: repeat inputs; the exit code is 1 if one fails."""

import sys
import traceback
from pathlib import Path

from .checks import run
from .targets import TARGETS


def main() -> int:
    """Run each file, and print the traceback of those that fail."""
    failed = 0
    for path in map(Path, sys.argv[2:]):
        try:
            run(TARGETS[sys.argv[1]], path.read_bytes())
        except Exception:
            traceback.print_exc()
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
