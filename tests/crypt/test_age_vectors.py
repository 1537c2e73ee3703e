"""The test vectors of the age specification, read at any position instead of from the beginning."""

import base64
import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest

from pgkeep import errors as e
from pgkeep.crypt import age_format, age_identities, age_source
from pgkeep.crypt.age_identities import Identity
from pgkeep.crypt.age_source import AgeSource
from pgkeep.stores.memory import MemorySource

VECTORS = sorted(
    path for path in (Path(__file__).parents[1] / "fixtures" / "age").iterdir() if not path.suffix
)


class Vector(NamedTuple):
    """What a file must lead to, and the file."""

    expect: str
    payload: str | None
    identities: list[Identity]
    data: bytes


def no_passphrase(prompt: str) -> str:
    raise AssertionError(prompt)


def parsed(path: Path, folder: Path) -> Vector:
    head, _, data = path.read_bytes().partition(b"\n\n")
    fields = [line.partition(": ")[::2] for line in head.decode().splitlines()]
    values = dict(fields)
    texts = [text for name, text in fields if name == "identity"]
    file = folder / "identities"
    file.write_text("\n".join(texts))
    file.chmod(0o600)
    keys = age_identities.load(file, no_passphrase) if texts else []
    if values.get("compressed") == "zlib":
        data = zlib.decompress(data)
    return Vector(values["expect"], values.get("payload"), keys, data)


def outcome(source: MemorySource, identities: list[Identity]) -> tuple[str, str | None]:
    """Return what the specification calls the result, and the SHA-256 of the plain text."""
    try:
        header, _ = age_source.read_header(source)
        key = age_identities.file_key(header, identities)
    except e.VerificationFailed:
        return "header failure", None
    if key is None:
        return "no match", None
    try:
        header.check(key)
    except e.VerificationFailed:
        return "HMAC failure", None
    try:
        with_key = AgeSource(source, lambda _: key)
        return "success", hashlib.sha256(with_key.read(0, with_key.size)).hexdigest()
    except e.VerificationFailed:
        # The nonce counts as a part of the header there.
        short = source.size < header.length + age_format.NONCE
        return "header failure" if short else "payload failure", None


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name)
def test_vector(path: Path, tmp_path: Path) -> None:
    """Each malformed file is refused for its own reason; each correct one has its plain text."""
    vector = parsed(path, tmp_path)
    found, payload = outcome(MemorySource("vector", vector.data), vector.identities)
    assert found == vector.expect
    if found == "success":
        assert payload == vector.payload


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 68


def test_a_header_that_ends_at_any_position(tmp_path: Path) -> None:
    """The first read may end inside the last line of the header, or inside the nonce."""
    name = next(path for path in VECTORS if path.name == "x25519")
    vector = parsed(name, tmp_path)
    header = age_format.parse(vector.data)
    key = age_identities.file_key(header, vector.identities)
    assert key is not None
    lines = vector.data[: header.length].splitlines(keepends=True)
    for length in range(age_source.HEAD - 80, age_source.HEAD + 80):
        filler = b"-> filler " + b"x" * (length - header.length - 12) + b"\n\n"
        head = b"".join([*lines[:-1], filler, b"---"])
        mac = age_format.mac(key, head)
        encoded = base64.b64encode(mac).rstrip(b"=")
        data = head + b" " + encoded + b"\n" + vector.data[header.length :]
        assert age_format.parse(data).length == length
        found = outcome(MemorySource("vector", data), vector.identities)
        assert found == ("success", vector.payload)
