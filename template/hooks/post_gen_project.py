"""Remove the files of options that were not chosen."""

import shutil

OPTIONAL = {
    "k8s/page": "{{ cookiecutter.include_observability }}",
    "k8s": "{{ cookiecutter.include_kubernetes }}",
    "deploy/monitoring": "{{ cookiecutter.include_observability }}",
    ".github": "{{ cookiecutter.include_github_actions }}",
}
for folder, wanted in OPTIONAL.items():
    if wanted == "no":
        shutil.rmtree(folder)
