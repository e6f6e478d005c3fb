"""The manifests are valid and match the image."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cookiecutter.main import cookiecutter

from tests.template import ROOT


@pytest.mark.parametrize("worker", [False, True])
def test_manifests(worker: bool, tmp_path: Path) -> None:
    answers = {"project_slug": "my_board", "host": "board.example.com", "worker": worker}
    options = {"directory": "kubernetes", "output_dir": str(tmp_path), "no_input": True, "extra_context": answers}
    folder = Path(cookiecutter(str(ROOT), **options))
    files = sorted(folder.iterdir())
    assert (folder / "worker.yaml").exists() == worker
    validate = Path(sys.executable).with_name("kubernetes-validate")
    result = subprocess.run([validate, "--strict", *files], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr

    kinds = {}
    for file in files:
        for manifest in yaml.safe_load_all(file.read_text()):
            kinds[manifest["kind"], manifest["metadata"]["name"]] = manifest
    procfile = (ROOT / "{{cookiecutter.project_slug}}" / "Procfile").read_text()
    for name in ("worker", "checker") if worker else ():
        [container] = kinds["Deployment", f"my-board-{name}"]["spec"]["template"]["spec"]["containers"]
        assert f"{name}: exec {' '.join(container['command'])}\n" in procfile
    web = kinds["Deployment", "my-board"]["spec"]["template"]
    [container] = web["spec"]["containers"]
    assert "command" not in container
    dockerfile = (ROOT / "{{cookiecutter.project_slug}}" / "Dockerfile").read_text()
    assert f"EXPOSE {container['ports'][0]['containerPort']}" in dockerfile
    assert f"USER {web['spec']['securityContext']['runAsUser']}" in dockerfile
    # Every selector finds the pods, and every name that is referred to is that of something.
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = kinds[kind, "my-board"]["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        assert selector.get("matchLabels", selector) == web["metadata"]["labels"]
    assert kinds["HorizontalPodAutoscaler", "my-board"]["spec"]["scaleTargetRef"]["name"] == "my-board"
    assert container["envFrom"][0]["configMapRef"]["name"] == "my-board"
    restricted = kinds["NetworkPolicy", "my-board-pods"]["spec"]
    for (kind, name), manifest in kinds.items():
        if kind not in ("Deployment", "Job"):
            continue
        pod = manifest["spec"]["template"]
        assert restricted["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        for container in pod["spec"]["containers"]:
            assert container["resources"]["limits"]["memory"], name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
    assert ("ConfigMap", "my-board") in kinds
