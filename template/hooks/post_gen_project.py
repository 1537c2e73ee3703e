"""Remove the files of options that were not chosen. Add the wheel of pgkeep and its hash."""

import hashlib
import shutil
import sys
from pathlib import Path

OPTIONAL = {
    "k8s/page": "{{ cookiecutter.include_observability }}",
    "k8s/pitr": "{{ cookiecutter.include_pitr }}",
    "k8s": "{{ cookiecutter.include_kubernetes }}",
    "deploy/monitoring": "{{ cookiecutter.include_observability }}",
    ".github": "{{ cookiecutter.include_github_actions }}",
}
UNITS = "deploy/systemd/{{ cookiecutter.project_slug }}-pitr"
PITR = "{{ cookiecutter.include_pitr }}"
VENDORED = "{{ cookiecutter.__vendored }}"
SOURCE = "{{ cookiecutter.pgkeep_source }}"


def wheel() -> tuple[str, bytes]:
    """Return the name and the contents of the wheel."""
    if SOURCE != "wheel":
        path = Path(SOURCE)
        return path.name, path.read_bytes()
    try:
        from pgkeep.scaffold.wheel import own_wheel  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        sys.exit(
            "pgkeep_source: wheel requires pgkeep in the environment of cookiecutter."
            " Use `pgkeep init`, or set it to the path of a wheel, to git+URL@COMMIT or a version."
        )
    made = own_wheel()
    return made.name, made.contents


for folder, wanted in OPTIONAL.items():
    if wanted == "no":
        shutil.rmtree(folder)
if OPTIONAL["k8s/page"] == "no":
    Path("k8s/pitr/networkpolicy.yaml").unlink(missing_ok=True)  # only for Prometheus
if PITR == "no":
    for suffix in ("-stream.service", "-base.service", "-base.timer", "-drill.service",
                   "-drill.timer"):  # fmt: skip
        Path(UNITS + suffix).unlink()
if VENDORED == "yes":
    name, contents = wheel()
    vendor = Path("scripts", "vendor")
    vendor.mkdir()
    (vendor / name).write_bytes(contents)
    requirements = Path("scripts", "requirements.txt")
    version, digest = name.split("-")[1], hashlib.sha256(contents).hexdigest()
    text = requirements.read_text("utf-8").replace("VERSION", version).replace("HASH", digest)
    requirements.write_text(text, "utf-8")
