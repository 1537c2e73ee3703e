"""Reject values that would make the generated files invalid."""

import re
import sys

NAME = r"[a-z_][a-z0-9_]{0,62}"
FILE = r"/.*/pgkeep-[^/-]+-py3-none-any\.whl"
COMMIT = r"git\+(https|ssh|file)://\S+@[0-9a-f]{40}"  # a branch or a tag can change
VERSION = r"[0-9]+(\.[0-9]+)+\w*"
RULES = {
    # Names of Kubernetes objects start with it, and add up to 20 characters.
    "project_slug": ("{{ cookiecutter.project_slug }}", r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?"),
    "postgres_db": ("{{ cookiecutter.postgres_db }}", NAME),
    "postgres_user": ("{{ cookiecutter.postgres_user }}", NAME),
    "postgres_port": ("{{ cookiecutter.postgres_port }}", r"[1-9][0-9]{0,4}"),
    "compose_file": ("{{ cookiecutter.compose_file }}", r"([\w./-]+\.ya?ml)?"),
    "pgkeep_source": ("{{ cookiecutter.pgkeep_source }}", f"wheel|{FILE}|{COMMIT}|{VERSION}"),
}
wrong = [
    f"{name}: must match {rule}, got {value!r}"
    for name, (value, rule) in RULES.items()
    if not re.fullmatch(rule, value)
]
PITR_SINCE = 15  # the first major version that pgkeep pitr supports
pitr, major = "{{ cookiecutter.include_pitr }}", "{{ cookiecutter.postgres_version }}"
if pitr == "yes" and int(major) < PITR_SINCE:
    wrong.append(f"include_pitr: requires postgres_version {PITR_SINCE} or newer, got {major}")
if wrong:
    sys.exit("\n".join(wrong))
