"""Bugs of stored files: durability, the backup file, its verification, buckets, retention."""

from .bug import Bug

STORES = "tests/stores/test_stores.py"
SYSTEM_CALLS = "tests/backup/test_faults.py::test_a_system_call_fails"
DAMAGE = "tests/artifact/test_damage.py"
VERIFY = "tests/artifact/test_verify.py"
RETENTION = "tests/model/test_retention.py"
OFFSITE_FAULTS = "tests/catalog/test_offsite_faults.py"

DURABILITY = (
    Bug(
        "new directory not flushed",
        "stores/local.py",
        "                sync_name(directory)\n",
        "                pass\n",
        "The first backups in a new directory are gone after a power failure.",
        (f"{STORES}::test_a_new_directory_survives_a_loss_of_power",),
    ),
    Bug(
        "segment that a killed process has named not flushed",
        "pitr/archive.py",
        "        except e.Exists:  # the same bytes, as its name says\n            self.store.sync()",
        "        except e.Exists:  # the same bytes, as its name says\n            pass",
        "WAL that was acknowledged is gone after a power failure.",
        ("tests/pitr/test_shipper.py::test_what_a_killed_receiver_named_is_made_durable",),
    ),
    Bug(
        "durability of the archive not ensured at the start",
        "pitr/shipper.py",
        "        store.sync()\n",
        "",
        "WAL that is reported as stored is gone after a power failure.",
        ("tests/pitr/test_shipper.py::test_what_a_killed_receiver_named_is_made_durable",),
    ),
    Bug(
        "fsync of a file removed",
        "stores/local.py",
        "            os.fsync(self._fd)\n",
        "",
        "A backup that was reported as complete is empty after a power failure.",
        (
            "tests/catalog/test_publication.py",
            f"{STORES}::test_a_new_directory_survives_a_loss_of_power",
        ),
    ),
    Bug(
        "fsync of the folder removed",
        "stores/local.py",
        "            sync_directory(self._final.parent)\n",
        "",
        "The names of a backup's files are gone after a power failure.",
        (
            "tests/catalog/test_publication.py",
            f"{STORES}::test_a_new_directory_survives_a_loss_of_power",
        ),
    ),
    Bug(
        "errors of fsync of the folder ignored",
        "stores/local.py",
        "if error.errno not in (errno.EBADF, errno.EINVAL):",
        "if False:",
        "A disk that fails is not noticed.",
        ("tests/backup/test_faults.py::test_a_system_call_fails[the directory cannot be synced]",),
    ),
    Bug(
        "names given before all files are on disk",
        "catalog/publication.py",
        """        self.write(self.name.checksum, checksum(manifest.artifact))
        self.write(self.name.manifest, encode(manifest))
        with nullcontext() if self.store.remote else interrupts.held():
            with all_or_none(self.store, list(self.uploads)):
                for upload in self.uploads.values():
""",
        """        with nullcontext() if self.store.remote else interrupts.held():
            with all_or_none(self.store, list(self.uploads)):
                for file, upload in self.uploads.items():
                    if file == self.name.checksum:
                        self.write(file, checksum(manifest.artifact))
                    if file == self.name.manifest:
                        self.write(file, encode(manifest))
""",
        "A backup file has its name although the other files could not be written.",
        ("tests/catalog/test_publication.py",),
    ),
    Bug(
        "manifest first",
        "catalog/publication.py",
        "for upload in self.uploads.values():\n                    upload.publish()",
        "for upload in reversed(self.uploads.values()):\n                    upload.publish()",
        "After a kill, a manifest describes a backup whose file does not exist.",
        ("tests/catalog/test_publication.py",),
    ),
)

ARTIFACT = (
    Bug(
        "hash of a member ignored",
        "artifact/file.py",
        "if hashlib.sha256(data).hexdigest() != member.sha256:",
        "if False:",
        "Other bytes in the place of a member are accepted.",
        (f"{DAMAGE}::test_what_happens_to_files_is_reported",),
    ),
    Bug(
        "hash of the index ignored",
        "artifact/file.py",
        "if hashlib.sha256(data).digest() != marker.digest:",
        "if False:",
        "Another index, with the hashes of other members, is accepted.",
        (f"{DAMAGE}::test_every_flipped_bit_is_reported",),
    ),
    Bug(
        "members need not be complete",
        "artifact/file.py",
        "        self._check_coverage(marker.offset)\n",
        "",
        "A file with members that no index lists is accepted.",
        (f"{VERIFY}::test_index_that_lies_about_its_members",),
    ),
    Bug(
        "bytes before or after the file accepted",
        "artifact/file.py",
        "    if expected != source.size:\n",
        "    if False:\n",
        "Bytes that were inserted are accepted.",
        (
            f"{DAMAGE}::test_what_happens_to_files_is_reported",
            f"{DAMAGE}::test_every_flipped_bit_is_reported",
        ),
    ),
    Bug(
        "missing end marker accepted",
        "artifact/verify.py",
        "if report.edited and not accept_edited:",
        "if False:",
        "A file of pgkeep without its index counts as verified.",
        (f"{DAMAGE}::test_every_cut_is_reported",),
    ),
    Bug(
        "truncated gzip data accepted",
        "artifact/compression.py",
        '    if not stream.eof:\n        raise e.VerificationFailed("truncated gzip data")\n',
        "",
        "A member that lost its end, with its CRC, is accepted.",
        (f"{VERIFY}::test_an_unfinished_member_is_not_waited_for",),
    ),
    Bug(
        "bytes after a member accepted",
        "artifact/compression.py",
        "    if stream.unused_data:\n",
        "    if False:\n",
        "Bytes behind a member are accepted.",
        (f"{VERIFY}::test_an_unfinished_member_is_not_waited_for",),
    ),
    Bug(
        "length of a member's SQL ignored",
        "artifact/file.py",
        "        if raw != self.index.members[number].raw:",
        "        if False:",
        "The end of a member is lost, without an error.",
        (f"{VERIFY}::test_index_that_lies_about_its_members",),
    ),
    Bug(
        "SHA-256 of the .sha256 file ignored",
        "artifact/verify.py",
        "if side.sha256 is not None and side.sha256 != found:",
        "if False:",
        "Another file under the name of a backup is accepted.",
        (f"{DAMAGE}::test_side_files_that_disagree",),
    ),
    Bug(
        "SHA-256 of the manifest ignored",
        "artifact/verify.py",
        "if side.manifest is not None and side.manifest.artifact.sha256 != found:",
        "if False:",
        "Another file under the name of a backup is accepted.",
        (f"{DAMAGE}::test_side_files_that_disagree",),
    ),
    Bug(
        "rows of the manifest ignored",
        "artifact/verify.py",
        "        if mine.get(key) != theirs.get(key):",
        "        if False:",
        "A file with other rows than those in its manifest is accepted.",
        (f"{DAMAGE}::test_side_files_that_disagree",),
    ),
    Bug(
        "name of another database accepted",
        "artifact/verify.py",
        "        if database != meta.database.name:",
        "        if False:",
        "The backup of one database is restored under the name of another one.",
        ("tests/backup/test_run.py::test_files_of_lost_manifests_are_adopted",),
    ),
)

RETENTION_BUGS = (
    Bug(
        "daily backups kept one day less",
        "model/retention.py",
        "newest - timedelta(days=policy.daily)",
        "newest - timedelta(days=policy.daily - 1)",
        "A backup is removed a day too early.",
        (RETENTION,),
    ),
    Bug(
        "weekly backups kept one week less",
        "model/retention.py",
        "newest - timedelta(weeks=policy.weekly)",
        "newest - timedelta(weeks=policy.weekly - 1)",
        "A backup is removed a week too early.",
        (RETENTION,),
    ),
    Bug(
        "monthly backups kept one month less",
        "model/retention.py",
        "return months_before(newest, policy.monthly)",
        "return months_before(newest, policy.monthly - 1)",
        "A backup is removed a month too early.",
        (RETENTION,),
    ),
    Bug(
        "backup at the limit kept",
        "model/retention.py",
        "elif manifest.taken > _oldest(",
        "elif manifest.taken >= _oldest(",
        "A backup is kept a day too long.",
        (RETENTION,),
    ),
    Bug(
        "newest good backups not protected",
        "model/retention.py",
        "        if id(backup) in untouchable:",
        "        if False:",
        "The last good backup of a database is removed.",
        (RETENTION,),
    ),
    Bug(
        "unverified backups count as good",
        "model/retention.py",
        "if backup.verified is not None and backup.full]",
        "if backup.full]",
        "Good backups are removed in favour of one that nobody has verified.",
        (RETENTION,),
    ),
    Bug(
        "backups of definitions count as good",
        "model/retention.py",
        "if backup.verified is not None and backup.full]",
        "if backup.verified is not None]",
        "Backups with rows are removed in favour of one without.",
        (RETENTION,),
    ),
    Bug(
        "backup from the future accepted",
        "model/retention.py",
        "if newest.taken > now + FUTURE_TOLERANCE:",
        "if False:",
        "After one night with a wrong clock, all older backups are removed.",
        (RETENTION,),
    ),
    Bug(
        "any share removed at once",
        "model/retention.py",
        "if len(sudden) > largest * removable:",
        "if False:",
        "A mistyped policy removes nearly all backups in one night.",
        (RETENTION,),
    ),
    Bug(
        "hold ignored by the decision",
        "model/retention.py",
        "        if backup.hold is not None:\n            reasons.insert",
        "        if False:\n            reasons.insert",
        "A backup that somebody holds is removed.",
        ("tests/cli/test_history.py::test_retention_never_touches_a_held_backup",),
    ),
    Bug(
        "hold ignored by the removal",
        "catalog/prune.py",
        "            if manifest.hold is not None:\n",
        "            if False:\n",
        "A backup that was held since the decision is removed.",
        ("tests/cli/test_history.py::test_hold_and_release",),
    ),
    Bug(
        "clusters of one store not distinguished",
        "model/retention.py",
        "return manifest.server.system_identifier, manifest.database.name",
        'return "", manifest.database.name',
        "A new cluster's backups expire those of another one.",
        (RETENTION,),
    ),
    Bug(
        "removal begins with the file",
        "catalog/prune.py",
        "files = [*reversed(name.files),",
        "files = [*name.files,",
        "After an interruption, a manifest describes a backup whose file is gone.",
        (RETENTION,),
    ),
)

STORE = (
    Bug(
        "conditional put dropped",
        "stores/s3/bucket.py",
        "if new and self._conditional:",
        "if False:",
        "Two processes replace each other's WAL.",
        ("tests/pitr/test_archive.py::test_a_segment_is_put_on_condition",),
    ),
    Bug(
        "length of an object not compared",
        "stores/s3/upload.py",
        "        self._completed = True\n        self._check_size()\n",
        "        self._completed = True\n",
        "An object that the bucket has stored only in part counts as a copy.",
        (f"{STORES}::test_an_object_that_lost_its_end",),
    ),
    Bug(
        "upload completed before its parts have arrived",
        "stores/s3/upload.py",
        "            self._sender.finish()\n",
        "",
        "The last parts of the object are missing.",
        (f"{STORES}::test_what_was_put_comes_back",),
    ),
    Bug(
        "parts in any order",
        "stores/s3/upload.py",
        "for number, tag in sorted(self._tags.items())",
        "for number, tag in self._tags.items()",
        "A large object is refused, or has its parts in another order.",
        (STORES, "tests/catalog/test_offsite.py"),
    ),
    Bug(
        "second page of a list ignored",
        "stores/s3/bucket.py",
        "            yield page\n            if time.monotonic() > deadline:",
        "            yield page\n            return\n            if time.monotonic() > deadline:",
        "Backups after the first thousand objects are not seen, and expire others.",
        (f"{STORES}::test_more_objects_than_a_page_has",),
    ),
    Bug(
        "unfinished upload not removed",
        "stores/s3/upload.py",
        "                self._abort(bucket, self._sender.started())\n",
        "                pass\n",
        "Parts of failed uploads are stored, and billed, for ever.",
        (f"{STORES}::test_what_is_not_published_is_not_there",),
    ),
    Bug(
        "unfinished uploads of other clusters removed",
        "stores/s3/store.py",
        "if cluster != owner or not ours(name):",
        "if not ours(name):",
        "A run aborts the upload of another cluster's backup.",
        ("tests/catalog/test_offsite.py::test_two_clusters_in_one_prefix",),
    ),
    Bug(
        "failed copy recorded as done",
        "backup/backup.py",
        "            return PublishedBackup(manifest, copies.as_failure(error))",
        "            done = copies.mark_copied(self.store, manifest, self.copy)\n"
        "            return PublishedBackup(done, copies.as_failure(error))",
        "A copy that failed is never uploaded again.",
        ("tests/catalog/test_offsite.py::test_a_failed_copy_is_pending_and_uploaded_later",),
    ),
    Bug(
        "copy not read again",
        "catalog/copies.py",
        "        if read_back:\n",
        "        if False:\n",
        "A damaged copy of a verified backup counts as verified.",
        ("tests/catalog/test_offsite.py::test_a_pending_copy_of_a_verified_backup_is_read_back",),
    ),
    Bug(
        "damaged file copied",
        "catalog/copies.py",
        "    if digest.hexdigest() != facts.sha256:\n        raise e.VerificationFailed(\n"
        '            f"{source.url_of',
        '    if False:\n        raise e.VerificationFailed(\n            f"{source.url_of',
        "Damage of the directory spreads to the bucket.",
        (
            "tests/catalog/test_offsite.py::test_sync_all_fills_a_new_bucket_and_never_spreads_damage",
        ),
    ),
    Bug(
        "existing copy replaced",
        "catalog/copies.py",
        "    if not (listed and _has(target, manifest)):",
        "    if True:",
        "The last good copy is removed after a failed upload.",
        ("tests/catalog/test_offsite.py::test_a_copy_that_is_there_is_not_put_at_risk",),
    ),
    Bug(
        "bytes of the live copy not compared",
        "catalog/live_copy.py",
        "if self._upload is None or self._hash.hexdigest() != sha256:",
        "if self._upload is None:",
        "A copy with other bytes than the backup counts as its copy.",
        ("tests/catalog/test_copies.py",),
    ),
    Bug(
        "manifest of a copy written first",
        "catalog/copies.py",
        """            artifact = _upload_artifact(stack, source, target, manifest, progress)
""",
        """            write_file(target, name.manifest, encode(manifest), owner=owner)
            artifact = _upload_artifact(stack, source, target, manifest, progress)
""",
        "A bucket lists a copy that it does not have.",
        ("tests/catalog/test_copies.py",),
    ),
    Bug(
        "summary of a bucket trusted",
        "catalog/small_files.py",
        "self._take(copy for copy in found.files if copy.is_proved)",
        "self._take(found.files)",
        "Who can add objects can hide backups from other machines.",
        ("tests/catalog/test_requests.py::test_a_copy_is_never_trusted_more_than_the_bucket",),
    ),
    Bug(
        "old copy of a manifest used",
        "catalog/small_files.py",
        "if copy.name not in self._copies and copy.is_of(self._items.get(copy.name)):",
        "if copy.name not in self._copies:",
        "A decision uses a manifest that was replaced or removed.",
        ("tests/catalog/test_requests.py::test_a_change_is_seen_and_costs_one_request",),
    ),
    Bug(
        "hash of a manifest ignored",
        "model/manifest.py",
        "if HASH in fields and fields[HASH] != (found := digest_of(fields)):",
        "if HASH in fields and fields[HASH] != (found := digest_of(fields)) and False:",
        "A damaged manifest decides what is removed.",
        ("tests/catalog/test_catalog.py::test_a_damaged_manifest_is_noticed",),
    ),
)
