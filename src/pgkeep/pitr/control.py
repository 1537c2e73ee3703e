"""What pg_controldata of the same major version prints of a data directory."""

import re
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from .. import processes
from ..model.wal import SEGMENT_SIZES
from .waldump import setting_name

# What a recovery must not lower (manual, 27.4.7 "Hot Standby Parameter Reference").
_SETTING = re.compile(r"^(max_\w+|track_commit_timestamp) setting:\s+(\S+)$", re.MULTILINE)
_CHECKSUMS = re.compile(r"^Data page checksum version:\s+[1-9][0-9]*$", re.MULTILINE)
_IDENTIFIER = re.compile(r"^Database system identifier:\s+([0-9]+)$", re.MULTILINE)
_SEGMENT = re.compile(r"^Bytes per WAL segment:\s+([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ControlData:
    """The facts of a cluster."""

    system_identifier: str
    segment_size: int
    checksums: bool
    settings: dict[str, str]


def read_control(programs: Path, data: Path) -> ControlData:
    """Read the control file of a data directory.

    Raises:
        VerificationFailed: it is damaged, or of another version.

    """
    command = [str(programs / "pg_controldata"), str(data)]
    output = processes.run(command, {}, e.VerificationFailed)
    return parse(output.decode("utf-8", "replace"), data)


def parse(text: str, data: Path) -> ControlData:
    """Read what the program prints of a data directory.

    Raises:
        VerificationFailed: it is damaged, or of another version.

    """
    identifier, size = _IDENTIFIER.search(text), _SEGMENT.search(text)
    if identifier is None or size is None or int(size[1]) not in SEGMENT_SIZES:
        raise e.VerificationFailed(f"pg_controldata cannot read {data}")
    settings = {setting_name(name): value for name, value in _SETTING.findall(text)}
    checksums = _CHECKSUMS.search(text) is not None
    return ControlData(identifier[1], int(size[1]), checksums, settings)
