"""python -m tests.fuzz.engine TARGET FOLDER [libFuzzer's options]: one process of atheris.

An exception that is none of pgkeep's does not end the process: its input is written into FOLDER,
once for each place that raises it. Only a time limit, the memory limit or a crash of a library end
it; the parent process starts it again.
"""

import hashlib
import os
import sys
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pgkeep", "tarfile", "tomllib"]):
    from .checks import run
    from .targets import TARGETS

from .mutation import mutated


def place_of(error: BaseException) -> str:
    """Return what raised an error: its type, and the innermost functions of pgkeep."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/pgkeep/" in frame.filename] or frames
    return " ".join(
        [type(error).__name__, *(f"{Path(f.filename).stem}.{f.name}:{f.lineno}" for f in own[-2:])]
    )


def main() -> None:
    """Run until a limit of libFuzzer's options."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = TARGETS[name]
    known: set[str] = set()

    def test_one_input(data: bytes) -> None:
        try:
            run(target, data)
        except Exception as error:
            place = place_of(error)
            if place not in known:
                known.add(place)
                digest = hashlib.sha256(place.encode()).hexdigest()[:12]
                (folder / f"{name}-{digest}").write_bytes(data)
                text = "".join(traceback.format_exception(error))
                (folder / f"{name}-{digest}.txt").write_text(text, "utf-8", "backslashreplace")

    def change(data: bytes, limit: int, seed: int) -> bytes:
        return mutated(data, limit, seed, atheris.Mutate)

    command = os.environ.get("FUZZ_COMMAND", sys.argv[0])  # libFuzzer starts it to merge
    atheris.Setup([command, *sys.argv[3:]], test_one_input, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
