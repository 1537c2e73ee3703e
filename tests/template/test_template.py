"""Every combination of the template's options gives a project in which everything fits."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from psycopg.pq import Conninfo

import pgkeep
from pgkeep import config
from pgkeep.cli.serve import PORT
from pgkeep.crypt import age_identities
from pgkeep.settings import SETTINGS
from tests.support.baking import (
    OPTIONS,
    TEMPLATE,
    anchors,
    bake,
    blocks,
    combinations,
    distinct,
    files,
    has_pitr,
    links,
    peak,
    run,
    section_text,
)
from tests.support.exposition import PROMTOOL

BIN = Path(sys.executable).parent
KUBECTL = Path(__file__).parents[2] / "build" / "tools" / "kubectl"
# The oldest that knows all of it, and one of today.
KUBERNETES = ("1.31", "1.35")
CONTEXT = json.loads((TEMPLATE / "cookiecutter.json").read_text())
# Files with braces of their own.
COPIED = {
    name: (Path(__file__).parents[2] / "monitoring" / Path(name).name).read_bytes()
    for name in CONTEXT["_copy_without_render"]
}
# What only a project with include_observability knows.
WATCHED = re.compile(
    r"BACKUP_(METRICS_FILE|PUSHGATEWAY|PING_URL|WEBHOOK|MAX_AGE|DRILL_MAX_AGE|RTO|SERVE_TOKEN)"
    r"|METRICS_DIR|(?i:pushgateway|grafana|node.exporter|prometheus|dashboard|alertmanager)|9648"
    r"|pgkeep(\.sh)? (metrics|serve)|-page"
)
# What only a project with include_pitr knows.
PITR = re.compile(r"-pitr-|BACKUP_(WINDOW|SPOOL_DIR|WAL_MAX_LAG)")
# What only a project with include_encryption knows.
ENCRYPTING = re.compile(r"BACKUP_ENCRYPT_TO|BACKUP_IDENTITY_FILE|--identity|identity\.txt|gnupg")


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project for every combination."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return combinations(shared / "projects")


@pytest.fixture(scope="module")
def full(projects: dict[str, Path]) -> Path:
    """The one with everything."""
    return projects["yes-yes-yes-yes-yes"]


def test_nothing_of_the_template_is_left(projects: dict[str, Path]) -> None:
    """Neither Jinja nor what was not asked for; and lines end as they should."""
    assert len(projects) == 16
    for options, project in projects.items():
        kubernetes, observability, s3, encryption, actions = options.split("-")
        assert (project / "k8s").exists() == (kubernetes == "yes")
        assert (project / "deploy" / "monitoring").exists() == (observability == "yes")
        assert (project / "k8s" / "page").exists() == (kubernetes == observability == "yes")
        assert (project / ".github").exists() == (actions == "yes")
        bucket = [file for file in files(project) if "BACKUP_S3_ENDPOINT" in file.read_text()]
        assert bool(bucket) == (s3 == "yes"), bucket
        watched = [
            file
            for file in files(project)
            if WATCHED.search(f"{file}\n{file.read_text()}")
            and file.name != "requirements.lock"  # of all extras
        ]
        assert bool(watched) == (observability == "yes"), watched
        encrypting = [
            file
            for file in files(project)
            if ENCRYPTING.search(file.read_text())
            and file.relative_to(project).as_posix() not in COPIED  # of all options
        ]
        assert bool(encrypting) == (encryption == "yes"), encrypting
        pitr = [
            file
            for file in files(project)
            if PITR.search(f"{file.name}\n{file.read_text()}")
            and file.relative_to(project).as_posix() not in COPIED
        ]
        assert bool(pitr) == has_pitr(options), pitr
        assert (project / "k8s" / "pitr").exists() == (kubernetes == "yes" and has_pitr(options))
        for path in files(project):
            if path.relative_to(project).as_posix() in COPIED:
                continue
            text = path.read_text()
            assert not re.search(r"\{\{|\{%|\{#|cookiecutter", str(path) + text), path
            assert not re.search(r"[ \t]$|\t|\n\n\n|@@", text, re.MULTILINE), path
            assert text == "" or text.endswith("\n"), path
            assert bool(path.stat().st_mode & stat.S_IXUSR) == (path.suffix == ".sh"), path


def test_rules_and_dashboard_are_ours(full: Path) -> None:
    """Byte by byte: nothing was rendered, nothing forgotten."""
    assert [Path(name).name for name in COPIED] == ["alerts.yml", "dashboard.json"]
    assert {name: (full / name).read_bytes() for name in COPIED} == COPIED


def test_other_values_reach_every_file(tmp_path: Path) -> None:
    """Nothing is called `app` or `my-project` because somebody forgot a variable."""
    project = bake(
        tmp_path, project_name="Ship Yard", postgres_version="18", postgres_db="hull",
        postgres_user="crew", postgres_port="6543",
    )  # fmt: skip
    assert project.name == "ship-yard"
    everything = "".join(path.read_text() for path in files(project))
    assert not re.search(r"\bapp\b(?!\.kubernetes|-pg)|my-project|\b5432\b(?!\")", everything)
    assert "PostgreSQL 18" in everything
    assert "/var/lib/postgresql\n" in (project / "compose.backup.yml").read_text()
    assert (project / "deploy" / "systemd" / "ship-yard-backup.timer").is_file()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("project_slug", "Ship Yard"), ("project_slug", "x" * 33), ("postgres_db", "a-b"),
        ("postgres_db", "a'; drop"), ("postgres_user", "Admin"), ("postgres_port", "0"),
        ("postgres_port", "54x"), ("pgkeep_source", "git+https://example.com/pgkeep@main"),
        ("compose_file", "a b.yml"), ("include_pitr", "14"),
    ],
)  # fmt: skip
def test_values_that_would_break_files_are_refused(tmp_path: Path, name: str, value: str) -> None:
    from cookiecutter.exceptions import FailedHookException  # noqa: PLC0415

    values = {name: value}
    if name == "include_pitr":
        values = {name: "yes", "postgres_version": value}
    with pytest.raises(FailedHookException):
        bake(tmp_path, **values)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] in ([], ["replay"])


def test_the_date_is_the_day_of_rendering(full: Path) -> None:
    today = datetime.now(UTC)
    days = {f"{day:%Y-%m-%d}" for day in (today, today - timedelta(days=1))}
    for path in (full / "docs" / "adr").glob("0*.md"):
        assert section_text(path, "Date").strip() in days, path


def test_links_lead_somewhere(projects: dict[str, Path]) -> None:
    for project in projects.values():
        for document in files(project, "*.md"):
            for link in links(document):
                if link.startswith("https://"):
                    continue
                place, _, anchor = link.partition("#")
                target = (document.parent / place).resolve() if place else document
                assert target.is_file(), f"{document}: {link}"
                assert target.is_relative_to(project.resolve())
                if anchor:
                    assert anchor in anchors(target), f"{document}: {link}"
        index = project / "docs" / "adr" / "README.md"
        records = {path.name for path in index.parent.glob("0*.md")}
        assert set(links(index)) == records


def test_markdown_is_clean(projects: dict[str, Path], tmp_path: Path) -> None:
    """Without the rule that the project leaves out, and without that of links: they have a test."""
    folder = distinct([*projects.values()], "*.md", tmp_path / "markdown")
    rules = yaml.safe_load((next(iter(projects.values())) / ".markdownlint.yaml").read_text())
    assert rules == {"line-length": False}
    run(
        [
            str(BIN / "rumdl"),
            "check",
            "--no-cache",
            "--isolated",
            "--disable=line-length,MD057",
            str(folder),
        ]
    )


def test_scripts_are_clean(projects: dict[str, Path], tmp_path: Path) -> None:
    folder = distinct([*projects.values()], "*.sh", tmp_path / "scripts")
    scripts = [str(path) for path in files(folder)]
    run([str(BIN / "shellcheck"), "--shell=sh", "--enable=all", "--severity=style",
           "--exclude=SC2249,SC2250,SC2310,SC2312", *scripts])  # fmt: skip


def test_code_in_documents_and_workflows_is_clean(
    projects: dict[str, Path], tmp_path: Path
) -> None:
    """shellcheck reads what people copy, too."""
    texts = {
        block.text
        for project in projects.values()
        for document in files(project, "*.md")
        for block in blocks(document)
        if block.language in ("sh", "shell")
    }
    for project in projects.values():
        for path in files(project, "database-backup.yml"):
            jobs = yaml.safe_load(path.read_text())["jobs"].values()
            texts |= {step["run"] for job in jobs for step in job["steps"] if "run" in step}
    paths = []
    for number, text in enumerate(sorted(texts)):
        paths.append(tmp_path / f"{number}.sh")
        paths[-1].write_text(f"#!/bin/sh\nset -eu\n{text}")
    assert len(paths) > 30
    run([str(BIN / "shellcheck"), *map(str, paths)])


def users_of_debian() -> set[str]:
    """The users and groups that every Debian has: useradd refuses their names."""
    folder = Path("/usr/share/base-passwd")
    lines = [
        line
        for name in ("passwd.master", "group.master")
        for line in (folder / name).read_text().splitlines()
    ]
    names = {line.split(":")[0] for line in lines}
    assert {"backup", "nobody"} <= names
    return names


def test_the_dockerfile_is_clean(full: Path, projects: dict[str, Path]) -> None:
    """hadolint; versions of Debian's packages are left to the repository on purpose."""
    run([str(BIN / "hadolint"), "--ignore=DL3008", str(full / "Dockerfile.backup")])
    text = (full / "Dockerfile.backup").read_text()
    assert re.search(r'^ARG POSTGRES_MAJORS="([\d ]+)"$', text, re.MULTILINE)
    copied = [
        path.relative_to(full).as_posix()
        for words in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
        for name in words.split()
        for path in ([full / name] if (full / name).is_file() else (full / name).iterdir())
    ]
    wheel = f"scripts/vendor/pgkeep-{pgkeep.__version__}-py3-none-any.whl"
    assert copied == ["scripts/requirements.lock", "scripts/requirements.txt", wheel]
    rules = (full / "Dockerfile.backup.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in rules if line.startswith("!")]
    assert "*" in rules
    assert [any(fnmatch(one, rule) for rule in allowed) for one in copied] == [True] * 3
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    (user,) = re.findall(r"^RUN useradd .* (\S+) \\$", text, re.MULTILINE)
    assert user not in users_of_debian()
    assert 'ENTRYPOINT ["pgkeep"]' in text  # no shell between PID 1 and pgkeep
    for options, project in projects.items():
        _, observability, s3, encryption, _ = (part == "yes" for part in options.split("-"))
        extras = ["drill", *["age"] * encryption, *["metrics", "serve"] * observability]
        extras += ["s3"] * s3
        text = (project / "Dockerfile.backup").read_text()
        assert bool(re.search(r"ca-certificates age gnupg \\$", text, re.MULTILINE)) == encryption
        lines = (project / "scripts" / "requirements.txt").read_text().splitlines()
        digest = hashlib.sha256((project / wheel).read_bytes()).hexdigest()
        assert [line for line in lines if not line.startswith("#")] == [
            "--find-links vendor",
            "-r requirements.lock",
            f"pgkeep[{','.join(extras)}]=={pgkeep.__version__} --hash=sha256:{digest}",
        ]


def test_yaml_is_what_its_readers_expect(projects: dict[str, Path], tmp_path: Path) -> None:
    """Compose and GitHub publish schemas of their files."""
    for pattern in ("*.yml", "*.yaml"):
        for project in projects.values():
            for path in files(project, pattern):
                assert next(iter(yaml.safe_load_all(path.read_text()))), path
    check = str(BIN / "check-jsonschema")
    compose = files(distinct([*projects.values()], "compose.backup.yml", tmp_path / "compose"))
    run([check, "--builtin-schema=vendor.compose-spec", *map(str, compose)])
    workflows = distinct([*projects.values()], "database-backup.yml", tmp_path / "workflows")
    schema = "--builtin-schema=vendor.github-workflows"
    run([check, schema, *map(str, files(workflows))])


def test_the_workflow_scans_the_image(full: Path) -> None:
    """ADR-022: a list of contents, then a scan of it that can fail; actions that nobody moves."""
    path = full / ".github" / "workflows" / "database-backup.yml"
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    named = {step["uses"].partition("@")[0]: step.get("with", {})
             for step in workflow["jobs"]["render"]["steps"] if "uses" in step}  # fmt: skip
    listed, scanned = named["anchore/sbom-action"], named["anchore/scan-action"]
    (build,) = [step["run"] for step in steps if step.get("name") == "Image"]
    assert f"-t {listed['image']} " in build
    assert listed["output-file"] == scanned["sbom"]
    wanted = {"only-fixed": True, "severity-cutoff": "high", "fail-build": True}
    assert wanted.items() <= scanned.items()
    adr = (full / "docs" / "adr" / "022-container-security-scanning.md").read_text()
    assert "--only-fixed --fail-on high" in adr


def interpolated(text: str, environ: dict[str, str]) -> str:
    """Put variables for ${NAME}, also with :-default, :?message or :+instead, as Compose does."""

    def value(match: re.Match[str]) -> str:
        found = environ.get(match["name"])
        if match["kind"] == ":+":
            return match["rest"] if found else ""
        if match["kind"] == ":?":
            assert found, match["rest"]
        return found or match["rest"] or ""

    rule = r"\$\{(?P<name>[A-Z_0-9]+)(?:(?P<kind>:[-?+])(?P<rest>[^}]*))?\}"
    result = re.sub(rule, value, text)
    assert "$" not in result
    return result


def test_compose_has_what_it_refers_to(projects: dict[str, Path]) -> None:
    """With the variables of .env.backup.example; the backup service can do one thing only."""
    for options, project in projects.items():
        lines = (project / ".env.backup.example").read_text().splitlines()
        environ = dict(line.split("=", 1) for line in lines if re.match("[A-Z]", line))
        known = {
            line.lstrip("#").split("=")[0] for line in lines if re.match("#?[A-Z_0-9]+=", line)
        }
        text = re.sub(" *# .*", "", (project / "compose.backup.yml").read_text())
        used = re.findall(r"\$\{([A-Z_0-9]+):|^ +([A-Z_0-9]+):$", text, re.MULTILINE)
        compose = yaml.safe_load(interpolated(text, environ))
        backup = compose["services"]["backup"]
        assert {"POSTGRES_PASSWORD", "HOST_UID"} <= environ.keys()
        assert {name or other for name, other in used} <= known, "told in .env.backup.example"
        assert ("restore" in compose["services"]) == (options.split("-")[3] == "yes")
        assert settings_unknown(backup["environment"]) == set()
        assert (project / backup["build"]["dockerfile"]).is_file()
        for volume in compose["services"]["db"]["volumes"]:
            assert volume.split(":")[0] in compose["volumes"]
        assert backup["user"] == "1000:1000"
        assert backup["read_only"] is True
        assert backup["cap_drop"] == ["ALL"]
        volumes = {"./backups:/backups", "./backups:/metrics", "/tmp"}  # noqa: S108
        assert "./backups:/backups" in backup["volumes"]
        assert set(backup["volumes"]) <= volumes
        assert not backup["environment"].get("BACKUP_METRICS_FILE")
        assert backup["environment"]["BACKUP_DIR"] == "/backups"
        assert backup["depends_on"]["db"]["condition"] == "service_healthy"
        assert "healthcheck" in compose["services"]["db"]


def test_compose_tells_and_shows_what_it_is_told_to(full: Path) -> None:
    """F11, F12, F13: a directory for node_exporter, and a page that nobody has to have."""
    text = re.sub(" *# .*", "", (full / "compose.backup.yml").read_text())
    token = "correct-horse-battery"
    told = {
        "POSTGRES_PASSWORD": "x", "HOST_METRICS_DIR": "/node", "BACKUP_PUSHGATEWAY": "http://gate",
        "BACKUP_PING_URL": "http://ping", "BACKUP_WEBHOOK": "http://hook", "BACKUP_MAX_AGE": "2d",
        "BACKUP_DRILL_MAX_AGE": "9w", "BACKUP_RTO": "2h", "BACKUP_SERVE_TOKEN": token,
    }  # fmt: skip
    services = yaml.safe_load(interpolated(text, told))["services"]
    backup, page = services["backup"], services["backup-page"]
    assert "/node:/metrics" in backup["volumes"]
    (loaded,) = config.load(backup["environment"])
    settings = loaded.settings
    assert str(settings.metrics_file) == "/metrics/my-project.prom"
    assert (settings.pushgateway, settings.ping_url) == ("http://gate", "http://ping")
    assert (settings.webhook, settings.max_age, settings.rto) == ("http://hook", 172800, 7200)
    (loaded,) = config.load(page["environment"])
    assert (loaded.settings.serve_token, loaded.settings.drill_max_age) == (token, 63 * 86400)
    assert "password" not in loaded.connection
    # Passed on only if it is set: an empty value is an error, so that no secret is missed.
    assert backup["environment"]["BACKUP_ENCRYPT_TO"] is None
    restore = services["restore"]
    assert [name for name, service in services.items() if "secrets" in service] == ["restore"]
    (secret,) = restore["secrets"]
    assert restore["environment"].pop("BACKUP_IDENTITY_FILE") == f"/run/secrets/{secret}"
    assert restore["environment"] == backup["environment"]
    for name in ("image", "build", "user", "read_only", "cap_drop", "security_opt"):
        assert restore[name] == backup[name]
    assert page["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert page["command"] == ["serve", f"--listen=0.0.0.0:{PORT}"]
    assert page["volumes"] == ["./backups:/backups:ro"]
    for name in ("image", "build", "user", "read_only", "cap_drop", "security_opt"):
        assert page[name] == backup[name]
    # Compose asks for what is required by ${NAME:?} whatever the profile.
    assert set(re.findall(r"\$\{([A-Z_0-9]+):\?", text)) == {"POSTGRES_PASSWORD"}
    assert page["profiles"] == ["page"]


def test_prometheus_takes_the_configuration(full: Path, tmp_path: Path) -> None:
    """With the rules, and the three ways in which the metrics come."""
    folder = tmp_path / "monitoring"
    shutil.copytree(full / "deploy" / "monitoring", folder)
    path = folder / "prometheus.yml"
    written = yaml.safe_load(path.read_text())
    node, gateway, page = written["scrape_configs"]
    token = Path(page["authorization"]["credentials_file"])
    path.write_text(path.read_text().replace(str(token), token.name))
    failed = subprocess.run([PROMTOOL, "check", "config", path], capture_output=True, check=False)
    assert failed.returncode == 1  # the token is missing
    (folder / token.name).write_text("correct-horse-battery")
    rules = (folder / "alerts.yml").read_text().count("- alert:")
    assert f"SUCCESS: {rules} rules found" in run([str(PROMTOOL), "check", "config", str(path)])
    assert gateway["honor_labels"] is True
    targets = [one["static_configs"][0]["targets"] for one in (node, gateway, page)]
    assert targets == [["localhost:9100"], ["localhost:9091"], [f"localhost:{PORT}"]]
    adr = (full / "docs" / "adr" / "017-optional-observability-stack.md").read_text()
    assert f" FILE {token}\n" in adr


def settings_unknown(names: Iterator[str] | Any) -> set[str]:
    """Return those that neither pgkeep nor libpq nor the S3 client knows."""
    known = {one.variable for one in SETTINGS}
    known |= {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    plain = {name if name in known else name.removesuffix("_FILE") for name in names}
    return {name for name in plain - known if not name.startswith("AWS_")}


def test_settings_that_are_shipped_are_known(full: Path) -> None:
    """No variable that pgkeep would pass over; also those that are commented out."""
    text = (full / "scripts" / "backup-config.env.example").read_text()
    assert settings_unknown(re.findall(r"^#?([A-Z_0-9]+)=", text, re.MULTILINE)) == set()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    (loaded,) = config.load(dict(line.split("=", 1) for line in lines))
    assert (loaded.policy.daily, loaded.policy.weekly, loaded.policy.monthly) == (7, 4, 12)


# -- Kubernetes


def kustomized(folder: Path) -> list[dict[str, Any]]:
    out = run([str(KUBECTL), "kustomize", str(folder)])
    return [one for one in yaml.load_all(out, yaml.CSafeLoader) if one]


@pytest.fixture(scope="module")
def objects(
    projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """All objects of every overlay, by combination and overlay; equal ones are made once.

    Where there is a page, staging has it; production has point-in-time recovery if it can.
    """
    made: dict[str, list[dict[str, Any]]] = {}
    for options, project in projects.items():
        kubernetes, observability, s3, encryption, actions = options.split("-")
        if kubernetes == "yes" and actions == "yes":
            assert (encryption == "yes") == decrypts(f"{observability}-{s3}")
            assert has_pitr(options) == decrypts(f"{observability}-{s3}")
            # Other workers read the same projects.
            k8s = tmp_path_factory.mktemp(options) / "k8s"
            shutil.copytree(project / "k8s", k8s)
            for overlay in ("staging", "production"):
                if observability == "yes" and overlay == "staging":
                    add(k8s / "overlays" / overlay / "kustomization.yaml", "page", "021-kube")
                if has_pitr(options) and overlay == "production":
                    add(k8s / "overlays" / overlay / "kustomization.yaml", "pitr", "025-poin")
                built = kustomized(k8s / "overlays" / overlay)
                built += kustomized(k8s / "overlays" / overlay / "restore")
                made[f"{observability}-{s3}-{overlay}"] = built
    assert len(made) == 8
    return made


def add(path: Path, component: str, record: str) -> None:
    """Do what the comment says."""
    text = path.read_text()
    commented = f"#  - ../../{component}\n"
    assert re.search(rf"see\s(# )?docs/adr/{record}\S*\.md\.\n{commented}", text)
    path.write_text(text.replace(commented, commented.replace("#", "")))


def pod(one: dict[str, Any]) -> dict[str, Any] | None:
    """Return the pod that an object makes, or is."""
    if one["kind"] == "CronJob":
        return dict(one["spec"]["jobTemplate"]["spec"]["template"])
    if one["kind"] == "Deployment":
        return dict(one["spec"]["template"])
    return one if one["kind"] == "Pod" else None


def pod_spec(one: dict[str, Any]) -> dict[str, Any] | None:
    found = pod(one)
    return None if found is None else dict(found["spec"])


def decrypts(name: str) -> bool:
    """Whether a project with Kubernetes and a workflow has include_encryption."""
    observability, s3, *_ = name.split("-")
    return observability == s3


def has_page(name: str) -> bool:
    observability, _, overlay = name.split("-")
    return (observability, overlay) == ("yes", "staging")


def recovers(name: str) -> bool:
    """Whether an overlay has point-in-time recovery."""
    return decrypts(name) and name.endswith("-production")


def test_kubernetes_accepts_every_object(objects: dict[str, list[dict[str, Any]]]) -> None:
    """No unknown field, no wrong type."""
    page = ["Deployment", "NetworkPolicy", "Service"]
    pitr = ["CronJob", "CronJob", "Deployment", "PersistentVolumeClaim"]
    for name, built in objects.items():
        assert sorted(one["kind"] for one in built) == sorted([
            "ConfigMap", "CronJob", "CronJob", "CronJob", "CronJob", "NetworkPolicy",
            "PersistentVolumeClaim", "Pod", "ServiceAccount", *page * has_page(name),
            *pitr * recovers(name), *["NetworkPolicy"] * (recovers(name) and name[0] == "y"),
        ])  # fmt: skip
    distinct_objects = {json.dumps(one): one for built in objects.values() for one in built}
    for one in distinct_objects.values():
        for version in KUBERNETES:
            kubernetes_validate.validate(one, version, strict=True)


def test_pods_are_restricted(objects: dict[str, list[dict[str, Any]]]) -> None:
    """The Pod Security Standard "restricted", and a read-only root file system besides."""
    for built in objects.values():
        for spec in filter(None, map(pod_spec, built)):
            assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
            assert spec["automountServiceAccountToken"] is False
            context = spec["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            for volume in spec["volumes"]:
                assert len(volume) == 2
                assert volume.keys() & {"persistentVolumeClaim", "secret", "emptyDir"}
            for container in spec["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                listens = "--listen" in " ".join(container.get("args", []))
                assert ("ports" in container) == listens


def test_what_pods_refer_to_is_there(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Names of objects; Secrets are made by hand, by the names in the documents."""
    for built in objects.values():
        there = {(one["kind"], one["metadata"]["name"]) for one in built}
        policies = [one["spec"]["podSelector"]["matchLabels"].items()
                    for one in built if one["kind"] == "NetworkPolicy"]  # fmt: skip
        for one in filter(None, map(pod, built)):
            spec = one["spec"]
            assert ("ServiceAccount", spec["serviceAccountName"]) in there
            claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"]
                      if "persistentVolumeClaim" in v]  # fmt: skip
            assert [("PersistentVolumeClaim", name) in there for name in claims] in (
                [True],
                [True] * 2,
            )
            (container,) = spec["containers"]
            config_map = container["envFrom"][0]["configMapRef"]["name"]
            assert ("ConfigMap", config_map) in there
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}
            labels = one["metadata"]["labels"].items()
            # The receiver has another one for who connects to it.
            more = spec["containers"][0]["name"] == "stream" and "ports" in spec["containers"][0]
            assert [selected <= labels for selected in policies].count(True) == 1 + more
        for one in built:
            if one["kind"] == "ConfigMap":
                assert settings_unknown(one["data"]) == set()
                (loaded,) = config.load(one["data"])
                assert loaded.connection["dbname"] == "app"


def test_secrets_that_pods_need_are_made_by_the_documents(
    full: Path, objects: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """By the commands of ADR-021 and the runbook, with the keys that the pods look for."""
    (tmp_path / "password").write_text("any")
    made: dict[str, set[str]] = {}
    for document in files(full, "*.md"):
        for block in blocks(document):
            for line in re.findall("^kubectl .*create secret .*$", block.text, re.MULTILINE):
                words = line.replace("FILE", str(tmp_path / "password")).split()[1:]
                out = run([str(KUBECTL), *words, "--dry-run=client", "-o", "yaml"])
                secret = yaml.safe_load(out)
                made[secret["metadata"]["name"]] = set(secret["data"])
    needed: dict[str, set[str]] = {}
    for spec in filter(None, map(pod_spec, objects["yes-yes-staging"])):
        (container,) = spec["containers"]
        env = {one["name"]: one for one in container["env"]}
        secrets = {v["name"]: v["secret"] for v in spec["volumes"] if "secret" in v}
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        for variable in (one for one in env if one.endswith("_FILE")):
            file = Path(env[variable]["value"])
            name = secrets.pop(mounted[str(file.parent)])["secretName"]
            needed.setdefault(name, set()).add(file.name)
        assert secrets == {}
        if "POSTGRES_USER" in env:
            reference = env["POSTGRES_USER"]["valueFrom"]["secretKeyRef"]
            needed[reference["name"]].add(reference["key"])
    assert made == needed


def test_only_what_decrypts_has_the_private_key(objects: dict[str, list[dict[str, Any]]]) -> None:
    """The drill and the restore pod; as a file that pgkeep accepts, and optional as encryption."""
    for name, built in objects.items():
        having = []
        for one in built:
            spec = pod_spec(one)
            secrets = [v["secret"] for v in (spec or {}).get("volumes", []) if "secret" in v]
            for secret in secrets:
                if secret["secretName"] == "my-project-backup-identity":
                    having.append(one["metadata"]["name"])
                    assert secret["defaultMode"] in age_identities.ALLOWED_MODES
                    assert secret["optional"] is True
        wanted = ["my-project-backup-drill", "my-project-restore"] * decrypts(name)
        assert sorted(having) == sorted(wanted + ["my-project-pitr-drill"] * recovers(name))


def test_jobs_end_in_time_and_one_at_a_time(objects: dict[str, list[dict[str, Any]]]) -> None:
    """B11, B20, B22, B23: pgkeep's own limits come first, then Kubernetes', then the next run."""
    own = {one.variable: float(one.default) for one in SETTINGS
           if one.variable in ("BACKUP_LOCK_TIMEOUT", "BACKUP_S3_LIMIT")}  # fmt: skip
    for overlay, built in objects.items():
        jobs = {re.sub("my-project-(backup-)?", "", one["metadata"]["name"]): one["spec"]
                for one in built if one["kind"] == "CronJob"}  # fmt: skip
        pitr = {"pitr-base": "15 1 * * *", "pitr-drill": "0 7 3 * *"} if recovers(overlay) else {}
        assert {name: spec["schedule"] for name, spec in jobs.items()} == {
            "daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *",
            "drill": "0 6 2 * *", **pitr,
        }  # fmt: skip
        for kind, spec in jobs.items():
            assert spec["timeZone"] == "Etc/UTC"
            assert spec["concurrencyPolicy"] == "Forbid"
            assert 10 < spec["startingDeadlineSeconds"] <= 3600
            job = spec["jobTemplate"]["spec"]
            assert sum(own.values()) < job["activeDeadlineSeconds"] < 24 * 3600
            assert job["backoffLimit"] in (0, 1)
            disrupted, rule = job["podFailurePolicy"]["rules"]
            assert disrupted == {
                "action": "Ignore",
                "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
            }
            # F15: longer than a month, so that the log of a monthly job is not removed unread.
            assert job["ttlSecondsAfterFinished"] >= 30 * 86400
            assert rule["onExitCodes"]["values"] == [2, 7, 9, 10]
            pod = job["template"]["spec"]
            assert pod["restartPolicy"] == "Never"  # which podFailurePolicy demands
            (container,) = pod["containers"]
            assert rule["onExitCodes"]["containerName"] == container["name"]
            words = {
                "drill": ["drill"], "pitr-base": ["pitr", "base"], "pitr-drill": ["drill", "--pitr"]
            }.get(kind, ["backup", f"--type={kind}"])  # fmt: skip
            assert container["args"][-len(words) :] == words
            assert "command" not in container


def test_memory_is_what_was_measured(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Requests above the measured peak, the limit a few times as much."""
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    highest = peak(page)
    assert highest > 50
    for built in objects.values():
        for spec in filter(None, map(pod_spec, built)):
            resources = spec["containers"][0]["resources"]
            if "drill" in spec["containers"][0].get("args", []):
                continue  # it has a server inside
            if spec["containers"][0]["name"] == "page":
                continue  # it makes no backup
            request = int(resources["requests"]["memory"].removesuffix("Mi"))
            limit = resources["limits"]["memory"].replace("1Gi", "1024Mi").removesuffix("Mi")
            assert highest < request <= 3 * highest
            assert int(limit) >= 4 * highest
            assert "cpu" not in resources["limits"]  # a throttled backup holds its locks longer


def test_disks_of_nodes_are_requested(objects: dict[str, list[dict[str, Any]]]) -> None:
    """B26: all that a pod writes is limited; a drill is not the first to be evicted."""
    units = {"Mi": 1, "Gi": 1024}

    def size(text: str) -> int:
        return int(text[:-2]) * units[text[-2:]]

    for built in objects.values():
        for spec in filter(None, map(pod_spec, built)):
            (container,) = spec["containers"]
            request, limit = (size(container["resources"][key]["ephemeral-storage"])
                              for key in ("requests", "limits"))  # fmt: skip
            scratch = sum(size(volume["emptyDir"]["sizeLimit"]) for volume in spec["volumes"]
                          if "emptyDir" in volume)  # fmt: skip
            assert request <= limit
            assert scratch < limit
            if "drill" in container.get("args", []):
                assert request >= scratch > 0


def test_the_restore_pod_has_what_psql_reads(objects: dict[str, list[dict[str, Any]]]) -> None:
    """From the same ConfigMap and Secret as pgkeep."""
    for built in objects.values():
        (restore,) = [one for one in built if one["kind"] == "Pod"]
        (container,) = restore["spec"]["containers"]
        read = {one["name"]: one.get("value") or one["valueFrom"] for one in container["env"]}
        (config_map,) = [one for one in built if one["kind"] == "ConfigMap"]
        for name in ("PGHOST", "PGPORT"):
            reference = read[name]["configMapKeyRef"]
            assert reference["name"] == config_map["metadata"]["name"]
            assert config_map["data"][reference["key"]]
        assert read["PGUSER"] == read["POSTGRES_USER"]
        assert read["PGPASSWORD"]["secretKeyRef"]["name"] == "my-project-restore"
        assert read["PGDATABASE"] == "postgres"
        assert config_map["data"]["PGSSLMODE"] == "prefer"


def test_jobs_get_out_to_whoever_is_told(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Name server, database, bucket, Pushgateway, ping and webhook; whose addresses are secrets."""
    for name, built in objects.items():
        observability, s3, _ = (part == "yes" for part in name.split("-"))
        parts = {(one["kind"], one["metadata"]["name"]): one for one in built}
        policy = parts["NetworkPolicy", "my-project-backup"]["spec"]
        allowed = {port["port"]: rule.get("to") for rule in policy["egress"]
                   for port in rule["ports"]}  # fmt: skip
        assert allowed.keys() == {
            53, 5432, *[443] * (s3 or observability), *[80] * s3, *[9091] * observability,
        }  # fmt: skip
        # C18: port 80 only of the agent of EKS Pod Identity.
        agent = ["169.254.170.23/32", "fd00:ec2::23/128"]
        assert [to for port, to in allowed.items() if to is not None] == [
            [{"ipBlock": {"cidr": cidr}} for cidr in agent]
        ] * s3
        if s3 and has_page(name):
            page = parts["NetworkPolicy", "my-project-backup-page"]["spec"]["egress"]
            ports = [{port["port"] for port in rule["ports"]} for rule in page]
            assert ports == [{53}, {443}, {80}]
            assert page[-1] in policy["egress"]
        assert ("BACKUP_S3_ENDPOINT" in parts["ConfigMap", "my-project-backup"]["data"]) == s3
        assert "ingress" not in policy
        settings = parts["ConfigMap", "my-project-backup"]["data"]
        assert ("BACKUP_PUSHGATEWAY" in settings) == observability
        assert not {"BACKUP_PING_URL", "BACKUP_WEBHOOK"} & settings.keys()
        told = {"secretRef": {"name": "my-project-backup-notify", "optional": True}}
        jobs = [spec for (kind, _), one in parts.items()
                if kind == "CronJob" and (spec := pod_spec(one))]  # fmt: skip
        for spec in jobs:
            assert (told in spec["containers"][0]["envFrom"]) == observability


def test_the_page_of_kubernetes(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Prometheus gets in and nobody else; no backup job waits for the volume that it holds."""
    for name, built in objects.items():
        claim = next(one for one in built if one["metadata"]["name"] == "my-project-backup"
                     and one["kind"] == "PersistentVolumeClaim")  # fmt: skip
        modes = ["ReadWriteMany"] if has_page(name) or recovers(name) else ["ReadWriteOnce"]
        assert claim["spec"]["accessModes"] == modes
        if not has_page(name):
            continue
        page = {
            one["kind"]: one["spec"] for one in built if one["metadata"]["name"].endswith("-page")
        }
        template = page["Deployment"]["template"]
        labels = template["metadata"]["labels"]
        assert page["Deployment"]["selector"]["matchLabels"] == labels
        assert page["Service"]["selector"] == labels
        (container,) = template["spec"]["containers"]
        (port,) = container["ports"]
        assert container["args"][-2:] == ["serve", f"--listen=0.0.0.0:{port['containerPort']}"]
        (way,) = page["Service"]["ports"]
        assert (way["port"], way["targetPort"]) == (PORT, port["name"])
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
        (rule,) = page["NetworkPolicy"]["ingress"]
        assert [one["port"] for one in rule["ports"]] == [port["containerPort"]]
        assert rule["from"]
        assert page["NetworkPolicy"]["policyTypes"] == ["Ingress", "Egress"]
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        jobs = [one for one in built if one["kind"] == "CronJob"]
        assert all(job["metadata"]["labels"] != labels for job in jobs)


def test_overlays_differ_where_they_should(objects: dict[str, list[dict[str, Any]]]) -> None:
    for name, built in objects.items():
        overlay = name.split("-")[-1]
        # The volume of the spool has the same size everywhere.
        parts = {one["kind"]: one for one in built if "spool" not in one["metadata"]["name"]}
        for one in built:
            assert one["metadata"]["namespace"] == f"my-project-{overlay}"
        images = {spec["containers"][0]["image"] for spec in filter(None, map(pod_spec, built))}
        assert images == {f"registry.example.com/my-project-backup:{pgkeep.__version__}"}
        guard = parts["PersistentVolumeClaim"]["metadata"]["annotations"]
        assert guard["helm.sh/resource-policy"] == "keep"
        assert "Delete=false" in guard["argocd.argoproj.io/sync-options"]
        days = parts["ConfigMap"]["data"]["BACKUP_RETENTION_DAILY"]
        assert days == ("3" if overlay == "staging" else "7")
        size = parts["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]
        assert size == ("10Gi" if overlay == "staging" else "100Gi")


def test_dumps_and_passwords_are_not_committed(full: Path, tmp_path: Path) -> None:
    """Asked of git itself."""
    subprocess.run(["git", "init", "-q", str(full)], check=True)
    names = [
        "backups/app_daily_20261122T020000Z.sql.gz", "scripts/backup-config.env", ".env",
        "identity.txt", "identity-new.txt", "keys/private.asc", "backups/.gitignore",
        "scripts/backup-config.env.example", ".env.backup.example",
    ]  # fmt: skip
    done = subprocess.run(
        ["git", "check-ignore", *names], cwd=full, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == names[:6]
    (full / ".git").rename(tmp_path / "git")


def test_json_of_the_template_has_the_promised_variables() -> None:
    assert [name for name in CONTEXT if not name.startswith("_")] == [
        "project_name", "project_slug", "postgres_version", "postgres_db", "postgres_user",
        "postgres_port", *OPTIONS, "include_pitr", "compose_file", "pgkeep_source",
    ]  # fmt: skip
    assert {tuple(sorted(CONTEXT[name])) for name in (*OPTIONS, "include_pitr")} == {("no", "yes")}
    assert "_creation_date" in CONTEXT
