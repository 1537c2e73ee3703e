"""A damaged encrypted backup: never restored, reported by verify with a key and without."""

import itertools
import os
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.artifact import verify
from pgkeep.artifact.file import Artifact
from pgkeep.artifact.verify import SideFiles
from pgkeep.catalog import side_files
from pgkeep.crypt import age_format, opening, openpgp_framing, recipients
from pgkeep.crypt.age_format import SEALED
from pgkeep.crypt.encryption import encrypt
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.naming import Cipher
from pgkeep.stores.memory import MemorySource, MemoryStore
from tests.crypt.conftest import Encrypted
from tests.support.private_keys import AgeKey, GpgKey

SEED = int(os.environ.get("DAMAGE_SEED") or secrets.randbits(32))
WITH_GPG = 60  # each takes a process


class Remote(MemoryStore):
    """A store that is read as a bucket is: names decide, and nothing is read twice."""

    remote = True

    def open(self, name: str) -> MemorySource:
        source = super().open(name)
        source.remote = True
        return source


def stored(path: Path, store: MemoryStore) -> None:
    """Put the files of a backup into a store."""
    store.files |= {
        file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()
    }


def noise() -> random.Random:
    """Every run damages other bytes; the seed is printed if a test fails."""
    print(f"DAMAGE_SEED={SEED}")  # noqa: T201
    return random.Random(SEED)  # noqa: S311


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    return b"%s%c%s" % (data[:position], data[position] ^ 1 << bit, data[position + 1 :])


def anywhere(data: bytes, times: int) -> Iterator[tuple[str, bytes]]:
    """Damage that does not depend on the format."""
    chance = noise()
    for _ in range(times):
        at, bit = chance.randrange(len(data)), chance.randrange(8)
        yield f"flip at {at}", flipped(data, at, bit)
        start, length = chance.randrange(len(data)), chance.randrange(1, 300)
        yield f"{length} bytes missing at {start}", data[:start] + data[start + length :]
        yield f"{length} zero bytes at {start}", data[:start] + bytes(length) + data[start:]
        yield f"truncated at {start}", data[:start]
    for extra in (b"\0", b"\n", bytes(16), bytes(17), bytes(SEALED), data, data[:1]):
        yield f"{len(extra)} bytes appended", data + extra


def of_age(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Damage to header, nonce and chunks."""
    header = age_format.parse(data).length
    for position in range(header + age_format.NONCE):
        yield f"flip at {position} of the header", flipped(data, position, position % 8)
    begin = header + age_format.NONCE
    borders = [*range(begin, len(data), SEALED), len(data)]
    for border, offset in itertools.product(borders, (-17, -16, -1, 0, 1, 15, 16, 17)):
        if border + offset < len(data):
            yield f"truncated at {border}{offset:+}", data[: border + offset]
    chunks = [data[start:end] for start, end in itertools.pairwise(borders)]
    for first, second in itertools.combinations(range(len(chunks)), 2):
        swapped = [*chunks]
        swapped[first], swapped[second] = chunks[second], chunks[first]
        yield f"chunks {first} and {second} swapped", data[:begin] + b"".join(swapped)
    for number in range(len(chunks)):
        yield (
            f"chunk {number} missing",
            data[:begin] + b"".join(chunks[:number] + chunks[number + 1 :]),
        )
        yield (
            f"chunk {number} twice",
            data[:begin] + b"".join([*chunks[: number + 1], *chunks[number:]]),
        )
    yield "last chunk alone", data[:begin] + chunks[-1]
    stanza, mac = data[:header].split(b"---")
    yield "a recipient more", stanza + b"-> X25519 x\n\n---" + mac + data[header:]


def restorable(store: MemoryStore, name: str, keys: Keys) -> bool:
    """Read everything that a restore reads."""
    try:
        with closing(side_files.open_contents(store, name, keys)) as source:
            artifact = Artifact(source)
            verify.check_digest(source, artifact, side_files.read(store, name))
            artifact.check_hashes()
    except e.PgkeepError:
        return False
    return True


def reports(store: MemoryStore, name: str, keys: Keys) -> str:
    """Return why verify refuses a file; empty if it accepts it."""
    return refused(
        lambda: side_files.verify(store, name, keys=keys, jobs=1, progress=lambda _: None)
    )


def refused(verification: Callable[[], object]) -> str:
    try:
        verification()
    except e.VerificationFailed as error:
        return error.message
    return ""


def without_key(name: str, data: bytes, side: SideFiles) -> list[str]:
    """Return what verify finds without a key: with the manifest, with the .sha256, with neither."""
    cases = (SideFiles(manifest=side.manifest), SideFiles(sha256=side.sha256), SideFiles())
    return [
        refused(lambda: verify.verify_stored(MemorySource(name, data), case, lambda _: None))  # noqa: B023
        for case in cases
    ]


def test_age(encrypted: Encrypted, age_key: AgeKey) -> None:
    """Each change of an encrypted file is found; nothing of it is ever restored."""
    directory, bucket = MemoryStore(), Remote()
    stored(encrypted.age, directory)
    bucket.files = directory.files
    name = encrypted.age.name
    data = directory.files[name]
    keys = Keys([age_key.file])
    side = side_files.read(directory, name)
    assert len(data) > 3 * SEALED
    for store in (directory, bucket):
        assert restorable(store, name, keys)
        assert reports(store, name, keys) == reports(store, name, Keys()) == ""
    *proved, unproved = without_key(name, data, side)
    assert proved == ["", ""]
    assert "cannot be verified: it is encrypted, no private key is given" in unproved
    count = 0
    for what, damaged in itertools.chain(of_age(data), anywhere(data, 190)):
        if damaged == data:
            continue
        count += 1
        directory.files[name] = damaged
        for store in (directory, bucket):
            assert not restorable(store, name, keys), what
        assert reports(directory, name, keys), what
        assert all(without_key(name, damaged, side)), what
    assert count > 1000


def of_gpg(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Damage at the borders of packets and of their parts."""
    borders = [*parts(data), len(data)]
    for border, offset in itertools.product(borders, (-20, -2, -1, 0, 1, 2)):
        if 0 <= border + offset < len(data):
            yield f"truncated at {border}{offset:+}", data[: border + offset]
    for number in range(len(borders) - 1):
        start, end = borders[number : number + 2]
        yield f"part {number} missing", data[:start] + data[end:]
        yield f"part {number} twice", data[:end] + data[start:]


def parts(data: bytes) -> list[int]:
    """Return the positions of lengths of packets and of their parts (RFC 9580, 4.2)."""
    found, position = [0], 0
    while position < len(data):
        if found[-1] == position:
            first = data[position]
            position += 1
            if not first & 0x40:
                size = 1 << (first & 3)
                position += size + int.from_bytes(data[position : position + size])
                found.append(position)
                continue
        octet = data[position]
        if octet < 192:
            position += 1 + octet
        elif octet < 224:
            position += 2 + ((octet - 192) << 8) + data[position + 1] + 192
        elif octet == 255:
            position += 5 + int.from_bytes(data[position + 1 : position + 5])
        else:
            position += 1 + (1 << (octet & 31))
        found.append(position)
    return found


def test_gpg(encrypted: Encrypted, gpg_key: GpgKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packets are checked without gpg, the contents with it; bytes after the end too."""
    monkeypatch.setenv("GNUPGHOME", str(gpg_key.home))
    store = MemoryStore()
    stored(encrypted.gpg, store)
    name = encrypted.gpg.name
    data = store.files[name]
    side = side_files.read(store, name)
    keys = Keys()
    assert restorable(store, name, keys)
    assert reports(store, name, keys) == ""
    *proved, unproved = without_key(name, data, side)
    assert proved == ["", ""]
    assert "cannot be verified" in unproved
    cases = [
        (what, damaged)
        for what, damaged in itertools.chain(of_gpg(data), anywhere(data, 250))
        if damaged != data
    ]
    assert len(cases) > 1000
    for what, damaged in cases:
        assert all(without_key(name, damaged, side)), what
        if what.startswith("truncated") or what.endswith("appended"):
            with pytest.raises(e.VerificationFailed):
                openpgp_framing.check(MemorySource(name, damaged))
    for what, damaged in noise().sample(cases, WITH_GPG):
        store.files[name] = damaged
        assert not restorable(store, name, keys), what
        assert reports(store, name, keys), what


@pytest.mark.parametrize("cipher", ["age", "gpg"])
def test_an_encryption_that_is_stopped_is_no_bug(
    cipher: str, age_key: AgeKey, gpg_key: GpgKey
) -> None:
    """A backup that began again, because a schema was renamed, ended with exit code 1.

    Writing raised the error of pyrage, which contained ours, and hid why the backup was given up.
    """
    to = age_key.recipient if cipher == "age" else str(gpg_key.public)
    encryption = Encryption(recipients=recipients.parse(to))
    with MemoryStore().create("file") as inner, encryption.upload(inner) as upload:
        upload.write(b"x")
        upload.stop()
        for thread in [thread for thread in threading.enumerate() if thread.name == "encrypt"]:
            thread.join()
        with pytest.raises(e.StoreError, match="the encryption was stopped"):
            upload.write(b"x")


def test_the_plain_text_of_gpg_counts_only_at_its_end(
    gpg_key: GpgKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C9: gpg writes all of it before it finds that its check of integrity fails."""
    monkeypatch.setenv("GNUPGHOME", str(gpg_key.home))
    data = encrypt(os.urandom(4000), recipients.parse(str(gpg_key.public)))
    damaged = MemorySource("backup.gpg", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(e.VerificationFailed, match="could not be decrypted"):
        list(opening.plain_blocks(damaged, Cipher.GPG, Keys()))
