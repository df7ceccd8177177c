"""A kubeconfig that is none is told in one line."""

from __future__ import annotations

import pytest

from pipelines import kubeconfig
from tests.refusals import refuses

PASSWORD = "s3cret-of-anna"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b"just text",
        b"a: [b",
        b"\xff\xfe\x00",
        b"apiVersion: v1\nkind: Config\n",
        b"apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: []\nclusters: []\nusers: []\n",
        b"contexts: 3\nclusters: 4\nusers: 5\ncurrent-context: x\n",
        f"current-context: x\ncontexts: [{{name: x, context: {{cluster: x, user: y}}}}]\nclusters: []\n"
        f"users: [{{name: y, user: {{token: {PASSWORD}}}}}]\n".encode(),
    ],
)
def test_what_is_no_kubeconfig_is_one_line(content, tmp_path, monkeypatch):
    from kubernetes import client

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = tmp_path / "kubeconfig"
    path.write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with refuses("kubeconfig-form", "KUBECONFIG") as caught:
        kubeconfig.load(client.Configuration())
    assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
