"""Bugs of encryption: keys, damage, plain text, `pgkeep rekey`."""

from .bug import Bug

FAILS_CLOSED = "tests/crypt/test_fails_closed.py"
REKEY = "tests/crypt/test_rekey.py"
DAMAGE = "tests/crypt/test_encrypted_damage.py"
VECTORS = "tests/crypt/test_age_vectors.py"
INTERRUPTED = "tests/crypt/test_interrupted_backups.py"

ENCRYPTION = (
    Bug(
        "forgotten encryption accepted",
        "catalog/encryption.py",
        "if encryption.recipients is not None or encryption.plain:",
        "if True:",
        "After a mistake in the settings, backups are not encrypted any more.",
        (f"{FAILS_CLOSED}::test_encryption_is_not_forgotten",),
    ),
    Bug(
        "empty list of recipients accepted",
        "crypt/recipients.py",
        'for part in line.split(",")] or [""]',
        'for part in line.split(",")]',
        "A backup is encrypted to nobody.",
        (f"{FAILS_CLOSED}::test_an_empty_setting",),
    ),
    Bug(
        "private key accepted as recipient",
        "settings.py",
        '    if PRIVATE_KEY.search(text):\n        raise ValueError("public keys',
        '    if False:\n        raise ValueError("public keys',
        "A private key is in the settings of the machine that is backed up, and in messages.",
        (f"{FAILS_CLOSED}::test_a_private_key_is_refused_and_not_printed",),
    ),
    Bug(
        "key check skipped",
        "catalog/key_check.py",
        "        return KeyCheck(State.OTHER_KEY, error=error)",
        "        return KeyCheck(State.OPENED)",
        "A lost key is noticed on the day of the restore.",
        ("tests/crypt/test_keys.py::test_which_backups_a_key_decrypts",),
    ),
    Bug(
        "key check of GPG without decryption",
        "crypt/opening.py",
        "        next(blocks, None)\n",
        "        pass\n",
        "A lost GPG key is noticed on the day of the restore.",
        ("tests/crypt/test_keys.py::test_which_backups_a_key_decrypts",),
    ),
    Bug(
        "MAC of an age header ignored",
        "crypt/age_format.py",
        "if not constant_time.bytes_eq(mac(file_key, self.authenticated), self.mac):",
        "if False:",
        "A header that somebody has changed is accepted.",
        (f"{VECTORS}::test_vector",),
    ),
    Bug(
        "exit status of gpg ignored when it decrypts",
        "crypt/opening.py",
        """        try:
            child.finish()
        except e.ProgramFailed as error:
            raise _gpg_failure(source, error) from error
""",
        "",
        "The beginning of a damaged message counts as all of it.",
        (f"{DAMAGE}::test_the_plain_text_of_gpg_counts_only_at_its_end",),
    ),
    Bug(
        "exit status of gpg ignored when it encrypts",
        "crypt/encryption.py",
        """            try:
                child.finish()
            except e.ProgramFailed as error:
                raise e.StoreError(f"could not encrypt: {error.message}") from error
""",
        "",
        "A backup that gpg did not finish is published.",
        (f"{INTERRUPTED}::test_gpg_fails",),
    ),
    Bug(
        "plain file under the name of an encrypted one accepted",
        "catalog/side_files.py",
        "if parsed is not None and parsed.cipher != found:",
        "if False:",
        "Who can write to the store replaces an encrypted backup with another one.",
        ("tests/crypt/test_crafted_files.py::test_crafted_files",),
    ),
    Bug(
        "plain text left in TMPDIR",
        "crypt/sealed_file.py",
        "            self._write(number, bytes(waiting))\n            self._file.flush()",
        "            tempfile.NamedTemporaryFile(delete=False).write(bytes(waiting))\n"
        "            self._write(number, bytes(waiting))\n            self._file.flush()",
        "The rows of a database are on the disk of the machine that reads its backup.",
        ("tests/crypt/test_planted_secret.py::test_a_secret_stays_in_the_database[gpg]",),
    ),
    Bug(
        "settings of the database in a manifest that is not encrypted",
        "catalog/publication.py",
        "database=meta.database if encryption is None else public_facts(meta.database)",
        "database=meta.database",
        "Secrets in ALTER DATABASE ... SET can be read without a key.",
        ("tests/crypt/test_planted_secret.py::test_a_secret_stays_in_the_database[age]",),
    ),
    Bug(
        "encrypted file without any hash counts as verified",
        "artifact/verify.py",
        "    if side.manifest is None and side.sha256 is None:\n",
        "    if False:\n",
        "A damaged file is verified without a key.",
        (f"{DAMAGE}::test_age",),
    ),
    Bug(
        "rekey removes the former file before the new one is verified",
        "catalog/rekey.py",
        "        verified = files.read_back(side, options.jobs, options.progress, keyring=keyring)\n",
        "        store.delete(old.artifact.name)\n"
        "        verified = files.read_back(side, options.jobs, options.progress, keyring=keyring)\n",
        "If the new file cannot be decrypted, the backup is lost.",
        (f"{REKEY}::test_every_point",),
    ),
    Bug(
        "rekey changes the manifest before the files exist",
        "catalog/rekey.py",
        """            for file in new:
                files.uploads[file].publish()
            manifest = manifests.change(store, old, changed)
""",
        """            manifest = manifests.change(store, old, changed)
            for file in new:
                files.uploads[file].publish()
""",
        "After a kill, the manifest names a file that does not exist.",
        (f"{REKEY}::test_every_point",),
    ),
    Bug(
        "rekey encrypts a damaged file",
        "catalog/rekey.py",
        "if (found := source.sha256()) != old.artifact.sha256:",
        "if (found := source.sha256()) != old.artifact.sha256 and False:",
        "Damage gets a new hash, and is not noticed any more.",
        (f"{REKEY}::test_a_damaged_backup_stays",),
    ),
    Bug(
        "rekey removes files that the manifest can name",
        "catalog/rekey.py",
        "            if not _may_name(store, name):\n",
        "            if True:\n",
        "After a lost answer of a bucket, the files of a backup are gone.",
        (f"{REKEY}::test_every_point",),
    ),
    Bug(
        "former files removed although the new one is missing",
        "catalog/leftovers.py",
        "if not files or not is_complete(store, manifest):",
        "if not files:",
        "The last file of a backup is removed.",
        (f"{REKEY}::test_nothing_is_removed_while_the_new_file_is_missing",),
    ),
    Bug(
        "recipients of a backup not compared",
        "catalog/rekey.py",
        "        and set(found.recipients) == set(recipients.names)\n",
        "",
        "A key that was stolen still decrypts the backups.",
        (f"{REKEY}::test_which_recipients_are_current",),
    ),
)
