"""Chains of base backups while keys are exchanged, and the files of today's format."""

import shutil
import tempfile
from pathlib import Path

import pytest

from pgkeep import config as configuration
from pgkeep import errors as e
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Segment
from pgkeep.pitr import base, base_run, bases, parts, verification
from pgkeep.pitr.archive import WalArchive, histories
from pgkeep.pitr.base_manifest import Kind
from pgkeep.pitr.location import Location, known
from pgkeep.pitr.wal_file import Origin
from pgkeep.progress import Silent
from tests.support import invoke, pitr_golden, private_keys, servers
from tests.support.pitr_chains import Chain


def test_a_chain_of_seven_across_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A2, A13: two keys of age and one of GPG follow each other; the host has only public ones."""
    with tempfile.TemporaryDirectory(dir=servers.data_folder()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        chain = Chain(18, folder, 100)
        monkeypatch.setenv("GNUPGHOME", str(chain.gpg.home))
        cluster = chain.take(7)
        assert [member.kind for member in chain.members] == [Kind.FULL, *[Kind.INCREMENTAL] * 7]
        assert chain.reasons[-1] == "7 incremental base backups follow each other"
        stored = [path for path in cluster.store.directory.iterdir() if ".gz" in path.name]
        heads = {path.name: path.read_bytes()[:22] for path in stored}
        assert {path.suffix for path in stored} == {".age", ".gpg"}
        assert all(head.startswith(b"age-encryption.org/v1\n") for name, head in heads.items()
                   if name.endswith(".age"))  # fmt: skip
        assert not any(b"\x1f\x8b" in head for head in heads.values())
        kept = list(cluster.staging.glob("2*"))
        assert len(kept) == 8, "nothing else stays on the host"
        assert not any(b"planted secret" in path.read_bytes() for path in kept)
        keys = Keys([key.file for key in chain.age])
        for number in (1, 3, 7):
            with chain.started(chain.assemble(cluster, number, keys)) as connection:
                row = connection.execute("select sum(n)::int8 from ledger").fetchone()
                assert row == (chain.sum_of(number),)
        with pytest.raises(e.OtherKey, match="decrypts it") as lost:
            chain.assemble(cluster, 4, Keys([chain.age[1].file]))
        assert chain.members[0].name in lost.value.message
        with pytest.raises(e.NoKey, match="is encrypted with age, and no private key is given"):
            chain.assemble(cluster, 5, Keys())
        archive = WalArchive(cluster.wal, Origin(pitr_golden.IDENTIFIER, 1 << 20),
                             cluster.encryption)  # fmt: skip
        assert archive.put(Segment(1, 2).name(1 << 20), pitr_golden.segment(2))
        assert archive.get(Segment(1, 2).name(1 << 20)) == pitr_golden.segment(2)
        (path,) = cluster.wal.directory.iterdir()
        assert path.suffix == ".gpg"
        private_keys.close(chain.gpg)
        # A host that did not take the last one, without a private key, takes a full one.
        base_run.forget(cluster.staging, [chain.members[3].name])
        location = Location("", None, cluster.wal, cluster.store)  # type: ignore[arg-type]
        with pytest.raises(e.NoKey):
            base_run.parent_of(location, chain.members[3], cluster.staging, Encryption())
        assert (cluster.staging / base.kept_name(chain.members[4].name)).is_file()


def test_files_of_earlier_formats(tmp_path: Path) -> None:
    """A18: what a released version wrote can be read for ever; see tests/support/pitr_golden.py."""
    fixtures = Path(__file__).parents[1] / "fixtures" / "pitr"
    for fixture in sorted(fixtures.iterdir()):
        (config,) = configuration.load({"BACKUP_DIR": str(fixture)})
        (location,) = known(config)
        assert location.facts.segment_size == 1 << 20
        identity = tmp_path / "identity.txt"
        identity.touch(mode=0o600)  # Git does not keep this mode
        identity.write_bytes((fixture / "identity.txt").read_bytes())
        keys = Keys([identity])
        found = verification.verify(location, Encryption(keys=keys), 1, Silent())
        assert (found.problems, found.by_hash, found.bases, found.files) == ([], 0, 2, 10)
        archive = location.archive(Encryption(keys=keys))
        assert [segment.number for segment in archive.segments()] == [2, 3]
        assert histories(archive)[2][0].parent == 1
        full, child = location.bases().read().values()
        assert child.parent == full.name
        assert full.tablespaces[0].location == "/srv/two"
        for part in full.parts:
            with bases.opened(location.base, part, keys) as blocks:
                parts.unpack(blocks, part.name, tmp_path / "data", 1 << 20, lambda _: None)
        assert (tmp_path / "data" / "PG_VERSION").read_text() == "17\nfull"


@pytest.mark.parametrize("damage", [(b'"7712', b'"7713'), (b'"7712', b'"\xb712'), (b"57", b"77")])
def test_a_damaged_description_of_a_cluster(damage: tuple[bytes, bytes], tmp_path: Path) -> None:
    """A5: it would lead to an empty folder, or to segments of another size; prune goes on."""
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "pitr" / "1", tmp_path / "b")
    (path,) = (tmp_path / "b" / "pitr").glob("*.cluster.json")
    damaged = path.read_bytes().replace(*damage)
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "b"))
    assert "does not describe a cluster" in invoke.run("pitr", "verify", env=env, code=5)
    assert "base backups and WAL are not removed" in invoke.outputs("prune", env=env)[1]
