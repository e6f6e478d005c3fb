"""The manifests are valid and match the image."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter

from tests.template import ROOT


@pytest.mark.parametrize("worker", [False, True])
def test_manifests(worker: bool, tmp_path: Path) -> None:
    """Without what is only for some projects, and with all of it."""
    answers = {"project_slug": "my_board", "host": "board.example.com", "worker": worker, "uploads": worker}
    options = {"directory": "kubernetes", "output_dir": str(tmp_path), "no_input": True, "extra_context": answers}
    folder = Path(cookiecutter(str(ROOT), **options))
    files = sorted(folder.iterdir())
    assert (folder / "worker.yaml").exists() == (folder / "uploads.yaml").exists() == worker
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
    check_uploads(kinds, uploads=worker)


def check_uploads(kinds: dict[tuple[str, str], Any], uploads: bool) -> None:
    """Each pod that handles uploaded files has the volume, and the proxy sends them as the Caddyfile of projects does."""
    names = ("my-board", "my-board-worker", "my-board-checker", "my-board-media")
    pods = [kinds["Deployment", name]["spec"]["template"]["spec"] for name in names if ("Deployment", name) in kinds]
    for pod in pods:
        claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]]
        mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
        assert ("my-board-media" in claims, any("/media" in mount for mount in mounts)) == (uploads, uploads)
    paths = kinds["Ingress", "my-board"]["spec"]["rules"][0]["http"]["paths"]
    assert [path["path"] for path in paths] == (["/media/"] if uploads else []) + ["/"]
    if not uploads:
        return
    project = ROOT / "{{cookiecutter.project_slug}}"
    assert "DJANGO_MEDIA_ROOT=/media" in (project / "Dockerfile").read_text()
    block = re.compile(r"handle_path /media/\* {\n(.+?)\n\s*}\n", re.DOTALL)
    configurations = (project / "Caddyfile").read_text(), kinds["ConfigMap", "my-board-media"]["data"]["Caddyfile"]
    own, cluster = (block.findall(configuration)[0].split() for configuration in configurations)
    assert own == cluster
    labels = kinds["Deployment", "my-board-media"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Service", "my-board-media"]["spec"]["selector"] == labels
    assert kinds["NetworkPolicy", "my-board-media"]["spec"]["podSelector"]["matchLabels"] == labels
    assert paths[0]["backend"]["service"]["name"] == "my-board-media"
