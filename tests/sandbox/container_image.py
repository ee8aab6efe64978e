"""A tiny container image, made without a registry: Debian's Python and the hostile server, imported from a tar file."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

HOSTILE = Path(__file__).with_name("hostile_server.py")
PROBE = Path(__file__).parents[2] / "src" / "limen" / "sandbox" / "probe.py"
PYTHON = "/usr/bin/python3"
_LEFT_OUT = {
    "test", "idlelib", "ensurepip", "lib2to3", "tkinter", "dist-packages", "__pycache__", "pydoc_data", "unittest",
    "distutils",
}  # fmt: skip


def build(folder: Path, name: str) -> str:
    """Import it as localhost/NAME:1 and return NAME@sha256:HEX."""
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as sink:
        for path in dict.fromkeys(_files()):
            sink.add(os.path.realpath(path), arcname=path.lstrip("/"), recursive=False)
        sink.add(HOSTILE, arcname="srv/hostile.py")
        sink.add(PROBE, arcname="srv/probe.py")
        for folder_name in ("tmp", "granted"):
            entry = tarfile.TarInfo(folder_name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            sink.addfile(entry)
        marked = tarfile.TarInfo("srv/world")
        marked.mode, marked.size = 0o666, 1
        sink.addfile(marked, io.BytesIO(b"x"))
    changes = ["--change", 'ENTRYPOINT ["/usr/bin/python3","-I","-S","/srv/hostile.py"]', "--change", "VOLUME /granted"]
    image = f"localhost/{name}"
    podman("import", "--quiet", *changes, str(archive), f"{image}:1")
    archive.unlink()
    return f"{image}@{podman('image', 'inspect', '--format', '{{.Digest}}', f'{image}:1')}"


def podman(*arguments: str) -> str:
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _files() -> Iterable[str]:
    real = os.path.realpath(PYTHON)
    yield PYTHON
    native = [str(one) for one in Path(f"/usr/lib/{os.path.basename(real)}/lib-dynload").glob("_ctypes.*.so")]
    told = subprocess.run(["ldd", real, *native], capture_output=True, text=True, timeout=20, check=True).stdout
    yield from (word for word in told.split() if word.startswith("/") and word[-1] != ":")
    for folder, inner, names in os.walk(f"/usr/lib/{os.path.basename(real)}"):
        inner[:] = [one for one in inner if one not in _LEFT_OUT and not one.startswith("config-")]
        yield from (os.path.join(folder, one) for one in names)
