"""Build the image of the template, and back up, verify and drill in it: `make image`.

    python -m tests.image

No registry of images is required. Debian 12 with Debian's python3 takes the place of the base, and
Debian's own client programs that of PGDG's. `buildah` runs every instruction of the Dockerfile;
`bubblewrap` runs the entry point as Docker does with --read-only: as the user of the image, without
capabilities, on a root that cannot be written. Requires root.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.support import baking, invoke, private_keys, servers

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "image"
BASE = "docker.io/library/python:3.11-slim-bookworm"
MAJOR = 15  # of Debian 12
OTHER_USER = "12345:0"

# How to reach the package indexes from a container: as tests/fresh.sh does.
SETTINGS = ("PIP_INDEX_URL", "PIP_PROXY", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
CERTIFICATE = "PIP_CERT"
MOUNTED = "/run/certificates.crt"


class Images:
    """The images of a storage of our own, which the next run finds again."""

    def __init__(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        conf = CACHE / "storage.conf"
        conf.write_text(
            f'[storage]\ndriver = "overlay"\n'
            f'graphroot = "{CACHE}/images"\nrunroot = "{CACHE}/run"\n'
        )
        self._env = os.environ | {"CONTAINERS_STORAGE_CONF": str(conf)}

    def __call__(self, *args: str) -> str:
        """Run buildah; its output, and that of the instructions, is shown."""
        done = subprocess.run(
            ["buildah", *args], env=self._env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def build(self, file: Path, tag: str, context: Path, *args: str) -> None:
        certificate = os.environ.get(CERTIFICATE)
        if certificate:
            args = (*args, "--volume", f"{certificate}:{MOUNTED}:ro")
        self(
            "bud", "--isolation=chroot", "--network=host", "--pull-never", "--layers", *args,
            f"--file={file}", f"--tag={tag}", str(context),
        )  # fmt: skip

    @contextlib.contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        """Give the files of an image, for as long as the context lasts."""
        container = self("from", "--pull-never", tag)
        try:
            yield Path(self("mount", container))
        finally:
            self("rm", container)


def make_base(images: Images) -> None:
    """Build what stands for the official image of Python."""
    #    subprocess.run([ROOT / "tests" / "fresh.sh", "base"], check=True)
    settings = [(name, os.environ[name]) for name in SETTINGS if os.environ.get(name)]
    if os.environ.get(CERTIFICATE):
        settings.append((CERTIFICATE, MOUNTED))
    folder = ROOT / "build" / "fresh"
    file = folder / "Dockerfile"
    file.write_text(
        "FROM scratch\nADD bookworm.tar /\n"
        + "".join(f"ENV {name}={value}\n" for name, value in settings)
        + "RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv\n"
    )
    images.build(file, BASE, folder)


class Container:
    """The entry point of an image in a container like Docker's."""

    def __init__(self, images: Images, tag: str, root: Path, volume: Path) -> None:
        config = json.loads(images("inspect", "--type=image", tag))["OCIv1"]["config"]
        self._env = dict(line.split("=", 1) for line in config["Env"])
        self._root, self._volume = root, volume
        self.user = str(config["User"])
        self.entry = list(config["Entrypoint"])
        assert list(config["Volumes"]) == ["/backups"]

    def run(
        self, *args: str, user: str = "", tmp: bool = False, env: Mapping[str, str] | None = None
    ) -> str:
        """Run the entry point with arguments; return what it prints."""
        writable = ["--perms", "1777", "--tmpfs", "/tmp"] if tmp else []
        uid, gid = (user or self.user).split(":")
        variables = {**self._env, **(env or {})}
        done = subprocess.run(
            [
                "bwrap", "--ro-bind", self._root, "/", "--dev", "/dev", "--proc", "/proc",
                "--perms", "1777", "--tmpfs", "/dev/shm", "--bind", self._volume, "/backups",
                *writable,
                "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--clearenv",
                *(word for name, value in variables.items() for word in ("--setenv", name, value)),
                "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs",
                "--inh-caps=-all", "--bounding-set=-all", *self.entry, *args,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        print(done.stdout, end="", flush=True)
        assert done.returncode == 0, f"{args}: exit {done.returncode}"
        return done.stdout


def encrypted(container: Container, volume: Path, env: Mapping[str, str]) -> None:
    """Back up with age and with GPG, and verify with a private key as a mounted Secret has it."""
    key = private_keys.age_key(volume)
    key.file.chmod(0o440)
    os.chown(key.file, 0, 10001)
    gpg = private_keys.gpg_key(volume)
    private_keys.close(gpg)
    for recipients in (key.recipient, f"/backups/{gpg.public.name}"):
        container.run(
            "backup", "--type=manual", "--verify", tmp=True,
            env={**env, "BACKUP_ENCRYPT_TO": recipients},
        )  # fmt: skip
    (backup,) = volume.glob("app_*Z.sql.gz.age")
    path = f"/backups/{key.file.name}"
    container.run("verify", f"/backups/{backup.name}", env={"BACKUP_IDENTITY_FILE": path})


def use(container: Container, volume: Path) -> None:
    """Back up a real server, verify, drill and restore, all as the image runs."""
    port = baking.free_port()
    settings = {**servers.SETTINGS, "listen_addresses": "localhost", "port": str(port)}
    with Server(servers.bin_folder(MAJOR), settings=settings) as server:
        servers.sql(server, "postgres", "create database app")
        servers.sql(server, "app", servers.SHOP)
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": server.params["user"]}
        env["PGDATABASE"] = "app"
        with timed("backup"):
            container.run("doctor", env=env)
            container.run("backup", "--type=daily", env=env)
        (backup,) = volume.glob("app_*Z.sql.gz")
        assert (backup.stat().st_uid, backup.stat().st_gid) == (10001, 10001)
        with timed("verify"):
            container.run("verify", f"/backups/{backup.name}")
        with timed("drill"):
            container.run("drill", tmp=True)  # as in the CronJob of the drill
        with timed("restore"):
            container.run("restore", "--latest", "--target-db=app_copy", env=env)
        with timed("encrypted"):
            encrypted(container, volume, env)
        count = "select count(*) from app.orders"
        assert servers.sql(server, "app_copy", count) == servers.sql(server, "app", count)


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    TIMES.append((name, time.monotonic() - began))


TIMES: list[tuple[str, float]] = []


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("image: must run as root")
    images = Images()
    with tempfile.TemporaryDirectory(prefix="image-") as folder, timed("all"):
        project = Path(folder) / "project"
        volume = Path(folder) / "backups"
        Path(folder).chmod(0o755)
        volume.mkdir()
        with timed("base"):
            make_base(images)
        subprocess.run([invoke.PGKEEP, "init", project], check=True, stdout=subprocess.DEVNULL)
        with timed("build"):
            images.build(
                project / "Dockerfile.backup", "backup", project,
                f"--ignorefile={project}/Dockerfile.backup.dockerignore",
                "--build-arg=POSTGRES_REPOSITORY=", f"--build-arg=POSTGRES_MAJORS={MAJOR}",
            )  # fmt: skip
        with images.mounted("backup") as root:
            container = Container(images, "backup", root, volume)
            assert container.user == "10001:10001"
            assert (root / "backups").stat().st_uid == 10001
            os.chown(volume, 10001, 10001)
            container.run("--version")
            container.run("--version", user=OTHER_USER)
            use(container, volume)
    print("\n| step | time |\n|---|---|")
    for name, seconds in TIMES:
        print(f"| {name} | {seconds:.0f} s |")


if __name__ == "__main__":
    main()
