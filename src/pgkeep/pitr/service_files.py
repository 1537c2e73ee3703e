"""The service that receives WAL, and the job that takes base backups: files for a service manager.

Secrets are in none of them. They belong into the file with the environment, which only the user of
the service can read.
"""

import re
import textwrap
from dataclasses import dataclass
from enum import StrEnum


class Manager(StrEnum):
    """What starts services."""

    SYSTEMD = "systemd"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """How the service runs."""

    program: str  # the path of pgkeep
    user: str
    target: str | None  # of the configuration file
    settings: dict[str, str]  # variables without secrets
    secrets: list[str]  # variables that are set, and are not written
    writable: list[str]  # directories
    folder: str  # where the files are

    @property
    def name(self) -> str:
        """The common beginning of the names of all files."""
        return f"pgkeep-pitr-{self.target}" if self.target else "pgkeep-pitr"

    def arguments(self, command: str) -> list[str]:
        """Return the arguments of a command."""
        target = [f"--target={self.target}"] if self.target else []
        return ["--log-format=json", "pitr", command, *target]


def files(manager: Manager, facts: ServiceFacts) -> dict[str, str]:
    """Return the files for a service manager, by name."""
    if manager is Manager.NONE:
        return {}
    made = {f"{facts.name}.env": _environment(facts)}
    if manager is Manager.SYSTEMD:
        made[f"{facts.name}-stream.service"] = _STREAM.format(**_unit_values(facts, "stream"))
        made[f"{facts.name}-base.service"] = _BASE.format(**_unit_values(facts, "base"))
        made[f"{facts.name}-base.timer"] = _TIMER
    elif manager is Manager.COMPOSE:
        made[f"compose.{facts.name.removeprefix('pgkeep-')}.yml"] = _compose(facts)
    else:
        made[f"{facts.name}.yaml"] = _kubernetes(facts)
    return made


def next_commands(manager: Manager, facts: ServiceFacts) -> list[str]:
    """Return the commands that start the service."""
    name, folder = facts.name, facts.folder
    if manager is Manager.SYSTEMD:
        return [
            f"sudo install -D -m 600 {folder}/{name}.env /etc/pgkeep/{name}.env",
            f"sudo install -m 644 {folder}/{name}-*.service /etc/systemd/system/",
            f"sudo install -m 644 {folder}/{name}-base.timer /etc/systemd/system/",
            "sudo systemctl daemon-reload",
            f"sudo systemctl enable --now {name}-stream.service {name}-base.timer",
        ]
    if manager is Manager.COMPOSE:
        file = f"{folder}/compose.{name.removeprefix('pgkeep-')}.yml"
        return [
            f"docker compose -f {file} up -d stream",
            f"docker compose -f {file} run --rm base  # every day, by cron",
        ]
    if manager is Manager.KUBERNETES:
        return [
            f"kubectl create secret generic {name} --from-env-file={folder}/{name}.env",
            f"kubectl apply -f {folder}/{name}.yaml",
        ]
    return [f"pgkeep {' '.join(facts.arguments('stream')[1:])}  # as a service, all the time"]


def _environment(facts: ServiceFacts) -> str:
    lines = [
        "# The settings of pgkeep pitr stream and pgkeep pitr base. Keep it private: mode 600."
    ]
    lines += [f"{name}={_quoted(value)}" for name, value in facts.settings.items()]
    if facts.secrets:
        lines.append("# Secrets were not written. Fill them in:")
        lines += [f"#{name}=" for name in facts.secrets]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """Quote a value as systemd, Compose and shells read it."""
    if re.fullmatch(r"[\w@%+=:,./*-]*", value):
        return value
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def _unit_values(facts: ServiceFacts, command: str) -> dict[str, str]:
    paths = [facts.program, *facts.writable, facts.settings.get("PGHOST", "")]
    private = not any(path.startswith(("/tmp/", "/var/tmp/")) for path in paths)  # noqa: S108
    words = [facts.program, *facts.arguments(command)]
    return {
        "name": facts.name,
        "user": facts.user,
        "command": " ".join(_word(word) for word in words),
        "writable": " ".join(_word(path) for path in facts.writable),
        "private": "yes" if private else "no",
    }


def _word(text: str) -> str:
    """Quote a word of a unit: % and $ have a meaning there."""
    escaped = text.replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", escaped) else escaped


_HARDENED = """\
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
# Not "yes": .pgpass, a virtual environment and the backups can be in a home directory.
ProtectHome=read-only
PrivateTmp={private}
ReadWritePaths={writable}
"""
_STREAM = (
    """\
# Receives the WAL of the cluster and stores it. It must run all the time: otherwise the server
# keeps the WAL, up to max_slot_wal_keep_size.

[Unit]
Description=Receive WAL for point-in-time recovery
Wants=network-online.target
After=network-online.target postgresql.service
StartLimitIntervalSec=0

[Service]
Type=notify
User={user}
EnvironmentFile=/etc/pgkeep/{name}.env
ExecStart={command}
Restart=always
RestartSec=10
# 2: configuration. 9: refused, for example because the slot does not exist. A restart does not
# help, and the unit fails.
RestartPreventExitStatus=2 9
# It reports that it works three times as often. A server that does not answer takes a minute.
WatchdogSec=300
TimeoutStartSec=120
TimeoutStopSec=120
"""
    + _HARDENED
    + """
[Install]
WantedBy=multi-user.target
"""
)
_BASE = (
    """\
# {name}-base.timer starts this service. It takes a base backup, incremental if possible, and
# removes what is before BACKUP_WINDOW.

[Unit]
Description=Take a base backup for point-in-time recovery
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={user}
EnvironmentFile=/etc/pgkeep/{name}.env
ExecStart={command}
TimeoutStartSec=20h
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
"""
    + _HARDENED
)
_TIMER = """\
[Unit]
Description=Take a base backup for point-in-time recovery every night

[Timer]
# In UTC: in a local zone, a time between 00:00 and 04:00 is skipped or repeated when clocks change.
OnCalendar=*-*-* 01:15:00 UTC
RandomizedDelaySec=10min
# If the machine was off at that time, run the job after the next boot.
Persistent=yes

[Install]
WantedBy=timers.target
"""


def _compose(facts: ServiceFacts) -> str:
    volumes = "".join(f"    - {path}:{path}\n" for path in facts.writable)
    return f"""\
# PGKEEP_IMAGE contains pgkeep and the server's programs of PostgreSQL; pgkeep init writes a
# Dockerfile for it. The user must own the directories.

x-pgkeep: &pgkeep
  image: ${{PGKEEP_IMAGE:?the image that contains pgkeep}}
  env_file: {facts.name}.env
  user: "${{PGKEEP_USER:-1000:1000}}"
  volumes:
{volumes}\
    - /tmp
  read_only: true
  cap_drop: [ALL]
  security_opt: [no-new-privileges:true]

services:
  stream:
    <<: *pgkeep
    command: {_flow(facts.arguments("stream"))}
    restart: always
    stop_grace_period: 120s

  # Runs once. The host schedules it.
  base:
    <<: *pgkeep
    profiles: [base]
    command: {_flow(facts.arguments("base"))}
"""


def _flow(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


_DIRECTORY = """\
            - name: BACKUP_DIR
              value: /var/lib/pgkeep/backups
"""
_POD = """\
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        seccompProfile:
          type: RuntimeDefault
"""
_CONTAINER = """\
          image: pgkeep # an image that contains pgkeep and the server's programs of PostgreSQL
          envFrom:
            - secretRef:
                name: {secret}
          env:
{directory}            - name: BACKUP_SPOOL_DIR
              value: /var/lib/pgkeep/spool
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: data
              mountPath: /var/lib/pgkeep
            - name: scratch
              mountPath: /tmp
"""
_VOLUMES = """\
      volumes:
        - name: data
          persistentVolumeClaim:
            claimName: {name}
        - name: scratch
          emptyDir: {{}}
"""
_KUBERNETES = """\
# The volume holds received WAL, and a base backup before it is stored: as large as the cluster.
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 50Gi
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}-stream
spec:
  replicas: 1 # a replication slot has one receiver
  strategy:
    type: Recreate
  selector:
    matchLabels: {{app.kubernetes.io/name: {name}-stream}}
  template:
    metadata:
      labels: {{app.kubernetes.io/name: {name}-stream}}
    spec:
      terminationGracePeriodSeconds: 120
{pod}      containers:
        - name: stream
          args: {stream}
{container}{volumes}---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {name}-base
spec:
  schedule: "15 1 * * *"
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 1
      template:
        spec:
          restartPolicy: Never
          # The volume can be mounted on one node only.
          affinity:
            podAffinity:
              requiredDuringSchedulingIgnoredDuringExecution:
                - topologyKey: kubernetes.io/hostname
                  labelSelector:
                    matchLabels: {{app.kubernetes.io/name: {name}-stream}}
          containers:
            - name: base
              args: {base}
{job_container}{job_pod}"""


def _kubernetes(facts: ServiceFacts) -> str:
    name = facts.name.lower().replace("_", "-")
    bucket = facts.settings.get("BACKUP_DIR", "").startswith("s3://")
    container = _CONTAINER.format(secret=facts.name, directory="" if bucket else _DIRECTORY)
    volumes = _VOLUMES.format(name=name)
    return _KUBERNETES.format(
        name=name, pod=_POD, container=container, volumes=volumes,
        job_pod=textwrap.indent(_POD + volumes, "    "),
        job_container=textwrap.indent(container, "    "),
        stream=_flow(facts.arguments("stream")), base=_flow(facts.arguments("base")),
    )  # fmt: skip
