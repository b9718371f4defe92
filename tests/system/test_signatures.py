"""Signatures: what Skopeo signs rl accepts, what rl signs Skopeo accepts, and everything else is refused."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import users
from support.registry import OCI, Registry
from system.conftest import Rl, unique_user

pytestmark = pytest.mark.skipif(not (shutil.which("gpg") and shutil.which("skopeo")), reason="gpg or skopeo is missing: ./contrib/host-setup test")

_OWNER = "signer@example.com"


class Signing:
    """A user with keys, a registry, and a place for signatures."""

    def __init__(self, rl: Rl, registry: Registry) -> None:
        self.rl = rl
        self.host = registry.host
        self.config = rl.user.home / ".config/containers"
        self.store = rl.user.home / "signatures"
        self.keys: dict[str, Path] = {}

    def key(self, owner: str, expires: str = "never") -> Path:
        user, path = self.rl.user, self.rl.user.home / f"{owner}.pub"
        user.run("gpg", "--batch", "--passphrase", "", "--quick-gen-key", owner, "rsa2048", "sign", expires, check=True)
        user.run("gpg", "--batch", "--yes", "--output", path, "--export", owner, check=True)
        self.keys[owner] = path
        return path

    def registries(self, **settings: Any) -> None:
        import yaml

        directory = self.config / "registries.d"
        self.rl.user.run("mkdir", "-p", directory, check=True)
        (directory / "test.yaml").write_text(yaml.safe_dump({"docker": {self.host: {"lookaside": f"file://{self.store}", "lookaside-staging": f"file://{self.store}", **settings}}}))

    def policy(self, *members: dict[str, Any]) -> Path:
        path = self.config / "policy.json"
        self.rl.user.run("mkdir", "-p", self.config, check=True)
        path.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {self.host: list(members)}}}))
        return path

    def by_key(self, owner: str = _OWNER, **more: Any) -> dict[str, Any]:
        return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(self.keys[owner]), **more}

    def skopeo(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.rl.user.run("skopeo", f"--policy={self.config}/policy.json", f"--registries.d={self.config}/registries.d", *words)


@pytest.fixture(scope="module")
def signing(busybox_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    rl = Rl(unique_user("rltest-signing"))
    rl.ok("load", "-q", "-i", busybox_archive)
    with Registry(tmp_path_factory.mktemp("signed")) as registry:
        found = Signing(rl, registry)
        for left in (".gnupg", ".config/containers", "signatures", "copied", "saved"):  # of a run that was cut off
            rl.user.run("rm", "-rf", rl.user.home / left, check=True)
        found.key(_OWNER)
        found.registries()
        yield found
    rl.user.run("gpgconf", "--kill", "all")
    users.wipe(rl.user)


def _refused(done: Any, said: str) -> None:
    assert done.returncode == 125 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_what_rl_signs_is_accepted(signing: Signing) -> None:
    rl, name = signing.rl, f"{signing.host}/own/app:1"
    signing.policy(signing.by_key())
    rl.ok("push", "-q", "--sign-by", _OWNER, "busybox", name)
    assert rl.ok("pull", "-q", name) == rl.ok("images", "-q", "--no-trunc", "busybox").removeprefix("sha256:")
    copied = signing.skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"dir:{rl.user.home}/copied")
    assert copied.returncode == 0, copied.stderr
    rl.ok("rmi", name)
    rl.ok("push", "-q", "busybox", f"{signing.host}/own/unsigned:1")
    _refused(rl("pull", "-q", f"{signing.host}/own/unsigned:1"), "no signature exists")
    paths = rl.ok("image", "sign", "--sign-by", _OWNER, f"docker://{signing.host}/own/unsigned:1").splitlines()
    assert paths[0].startswith(f"{signing.store}/own/unsigned@sha256=") and paths[0].endswith("/signature-1")
    rl.ok("pull", "-q", f"{signing.host}/own/unsigned:1")
    rl.ok("rmi", f"{signing.host}/own/unsigned:1")


def test_signatures_in_another_place(signing: Signing) -> None:
    rl, name = signing.rl, f"{signing.host}/own/placed:1"
    signing.policy({"type": "insecureAcceptAnything"})
    rl.ok("manifest", "create", "placed", "busybox")
    rl.ok("manifest", "push", "-q", "placed", name)
    (rl.user.home / "auth").write_text("{}")
    (rl.user.home / "certs").mkdir(exist_ok=True)
    flags = ["--authfile", "auth", "--cert-dir", "certs", "--directory", rl.user.home / "out", "--sign-by", _OWNER]
    one = rl.ok("image", "sign", *flags, f"docker://{name}").splitlines()
    both = rl.ok("image", "sign", "--all", *flags, f"docker://{name}").splitlines()
    assert len(one) == 1 and len(both) == 2 and all(path.startswith(f"{rl.user.home}/out/") and Path(path).exists() for path in one + both)
    rl.ok("rmi", "placed")


def test_what_skopeo_signs_is_accepted(signing: Signing) -> None:
    rl, name = signing.rl, f"{signing.host}/theirs/app:1"
    signing.policy({"type": "insecureAcceptAnything"})
    rl.ok("save", "-q", "--format", "docker-dir", "-o", "saved", "busybox")
    done = signing.skopeo("copy", "-q", "--dest-tls-verify=false", "--sign-by", _OWNER, f"dir:{rl.user.home}/saved", f"docker://{name}")
    assert done.returncode == 0, done.stderr
    signing.policy(signing.by_key())
    rl.ok("pull", "-q", name)
    rl.ok("rmi", name)
    signing.policy(signing.by_key(signedIdentity={"type": "exactRepository", "dockerRepository": "example.com/other"}))
    _refused(rl("pull", "-q", name), "is for")


def test_what_is_not_right_is_refused(signing: Signing) -> None:
    rl, name = signing.rl, f"{signing.host}/bad/app:1"
    other = "other@example.com"
    signing.key(other)
    signing.policy(signing.by_key())
    rl.ok("push", "-q", "--sign-by", other, "busybox", name)
    _refused(rl("pull", "-q", name), "of another key")
    place = next((signing.store / "bad").iterdir())
    (place / "signature-1").write_bytes(b"garbage")
    _refused(rl("pull", "-q", name), "of another key, expired, or broken")
    good = next((signing.store / "own").glob("app@*")) / "signature-1"
    shutil.copy(good, place / "signature-2")
    _refused(rl("pull", "-q", name), "is for")
    signing.policy(signing.by_key(), signing.by_key(other))
    _refused(rl("pull", "-q", f"{signing.host}/own/app:1"), "signedBy")
    signing.policy({"type": "reject"})
    _refused(rl("pull", "-q", name), "rejected by policy")
    signing.policy({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}})
    _refused(rl("pull", "-q", name), "not supported")
    assert rl("image", "exists", name).returncode == 1
    for words, said in ((["push", "--sign-by", "nobody@example.com", "busybox", name], "nobody@example.com"),
                        (["push", "--sign-by", _OWNER, "--sign-passphrase-file", "/nosuch", "busybox", name], "/nosuch"),
                        (["push", "--sign-by", _OWNER, "busybox", "dir:/tmp/x"], "for registries"), (["image", "sign", f"docker://{name}"], "no key"),
                        (["image", "sign", "--sign-by", _OWNER, "busybox"], "docker://"), (["push", "--sign-by-sigstore-private-key", "k", "busybox", name], "cosign")):
        _refused(rl(*words), said)
    signing.registries(**{"lookaside-staging": "https://127.0.0.1:1/"})
    _refused(rl("push", "-q", "--sign-by", _OWNER, "busybox", name), "only files can be written")
    signing.registries()


def test_sigstore_attachments(signing: Signing) -> None:
    """As cosign writes them: an image under a tag of the digest, whose layers are payloads with signatures."""
    rl, home, name = signing.rl, signing.rl.user.home, f"{signing.host}/sig/app:1"
    signing.policy({"type": "insecureAcceptAnything"})
    rl.ok("push", "-q", "--digestfile", "sig-digest", "busybox", name)
    digest = (home / "sig-digest").read_text()
    for kind, words in (("ec", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]), ("ed", ["-algorithm", "ED25519"]), ("wrong", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"])):
        subprocess.run(["openssl", "genpkey", *words, "-out", home / f"{kind}.key"], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", home / f"{kind}.key", "-pubout", "-out", home / f"{kind}.pem"], check=True)
        (home / f"{kind}.pem").chmod(0o644)

    def attach(kind: str, signed: str, manifest_digest: str) -> None:
        payload = json.dumps({"critical": {"identity": {"docker-reference": signed}, "image": {"docker-manifest-digest": manifest_digest},
                                           "type": "cosign container image signature"}, "optional": {}}).encode()
        (home / "payload").write_bytes(payload)
        sign = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", home / f"{kind}.key", "-in", home / "payload"] if kind == "ed" else \
            ["openssl", "dgst", "-sha256", "-sign", home / f"{kind}.key", home / "payload"]
        signature = subprocess.run(sign, check=True, capture_output=True).stdout
        layout = home / "attached"
        shutil.rmtree(layout, ignore_errors=True)
        from hashlib import sha256

        (layout / "blobs/sha256").mkdir(parents=True)

        def blob(data: bytes) -> dict[str, Any]:
            (layout / "blobs/sha256" / sha256(data).hexdigest()).write_bytes(data)
            return {"digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}

        layer = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", **blob(payload),
                 "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}}
        config = {"mediaType": f"{OCI}.config.v1+json", **blob(json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}).encode())}
        document = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": [layer]}).encode()
        index = {"schemaVersion": 2, "manifests": [{"mediaType": f"{OCI}.manifest.v1+json", **blob(document), "annotations": {"org.opencontainers.image.ref.name": "s"}}]}
        (layout / "index.json").write_text(json.dumps(index))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:s", f"docker://{signing.host}/sig/app:{digest.replace(':', '-')}.sig"], check=True)

    def wanted(kind: str, **more: Any) -> dict[str, Any]:
        return {"type": "sigstoreSigned", "keyPath": str(home / f"{kind}.pem"), **more}

    attach("ec", name, digest)
    signing.policy(wanted("ec"))
    _refused(rl("pull", "-q", name), "use-sigstore-attachments")
    signing.registries(**{"use-sigstore-attachments": True})
    rl.ok("pull", "-q", name)
    rl.ok("rmi", name)
    encoded = base64.b64encode((home / "ec.pem").read_bytes()).decode()
    signing.policy({"type": "sigstoreSigned", "keyData": encoded, "signedIdentity": {"type": "matchRepository"}})
    rl.ok("pull", "-q", f"{signing.host}/sig/app@{digest}")
    rl.ok("rmi", f"{signing.host}/sig/app@{digest}")
    signing.policy(wanted("wrong"))
    _refused(rl("pull", "-q", name), "of another key, or broken")
    signing.policy(wanted("ed"))
    attach("ed", name, digest)
    rl.ok("pull", "-q", name)
    rl.ok("rmi", name)
    attach("ed", f"{signing.host}/sig/other:1", digest)
    _refused(rl("pull", "-q", name), "is for")
    attach("ed", name, f"sha256:{'0' * 64}")
    _refused(rl("pull", "-q", name), "another manifest")
    signing.policy(wanted("nosuch"))
    _refused(rl("pull", "-q", name), "nosuch.pem")
    signing.registries()


def test_trust(signing: Signing) -> None:
    rl = signing.rl
    path = signing.policy(signing.by_key())
    rows = {line.split()[0]: line.split()[1:] for line in rl.ok("image", "trust", "show").splitlines()[1:]}
    assert rows == {"all": ["default", "accept"], "repository": [signing.host, "signed", _OWNER, f"file://{signing.store}"]}
    assert rl.ok("image", "trust", "show", "--raw") == path.read_text()
    assert len(rl.ok("image", "trust", "show", "--noheading").splitlines()) == len(rows)
    rl.ok("image", "trust", "set", "-t", "reject", "default")
    rl.ok("image", "trust", "set", "-f", signing.keys[_OWNER], "example.com/signed")
    shown = json.loads(rl.ok("image", "trust", "show", "--json"))
    assert [(row["name"], row["type"]) for row in shown] == [("default", "reject"), (signing.host, "signed"), ("example.com/signed", "signed")] or \
        {(row["name"], row["type"]) for row in shown} >= {("example.com/signed", "signed")}
    _refused(rl("pull", "-q", "oci:/nosuch"), "rejected by policy")
    for words, said in ((["set", "-t", "signedBy", "x.io"], "no public keys"), (["set", "-t", "accept", "-f", path, "x.io"], "needs no"), (["set", "-t", "nonsense", "x.io"], "is one of"),
                        (["set"], "takes a registry"), (["hide"], "neither show nor set"), (["set", "-f", "/nosuch", "x.io"], "no such file"), (["show", "-t", "accept"], "image trust set")):
        _refused(rl("image", "trust", *words), said)
    path.write_text("{")
    _refused(rl("image", "trust", "show"), "policy.json")
    path.unlink()
