"""G1, G2, G4: servers in containers by podman, attacked from inside, and containers podman did not confine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limen.adapters.podman import LABEL, Podman
from limen.core.cell import CellSpec
from limen.core.faults import UpstreamFault
from limen.gateway.cells import Cells
from limen.sandbox.cell import containerised
from limen.sandbox.settings import Directory, Limits
from sandbox import container_image
from sandbox.cells_kit import SMALL, configured, inside, run_inside, until, upstream_of

pytestmark = [
    pytest.mark.skipif(shutil.which("podman") is None, reason="there is no podman: install podman and runc"),
    pytest.mark.skipif(os.getuid() != 0, reason="rootless podman drops limits on control groups v1: run as root"),
]
HOSTILE = ["/usr/bin/python3", "-I", "-S", "/srv/hostile.py"]
CANARY = "gateway-canary-41c7"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = f"limen-test-{uuid.uuid4().hex[:12]}"
    yield container_image.build(tmp_path_factory.mktemp("image"), name)
    container_image.podman("rmi", "--force", f"localhost/{name}:1")


@pytest.fixture
def granted(tmp_path: Path) -> Path:
    folder = tmp_path / "granted"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "note").write_text("hello")
    return folder


def ours() -> list[str]:
    """Containers of this process that podman still knows."""
    listed = container_image.podman("ps", "--all", "--filter", f"label={LABEL}={os.getpid()}", "--format", "{{.Names}}")
    return listed.split()


def spec_of(image: str, argv: list[str], *, limits: dict[str, Any] | None = None, **more: Any) -> CellSpec:
    bounds = Limits.model_validate({**SMALL, **(limits or {})})
    return containerised("probe", image, argv, limits=bounds, env=more.pop("env", {}), root=True, **more)


def test_a_program_that_tries_everything_finds_a_cell(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of `limen doctor sandbox`, in a container."""
    monkeypatch.setenv("http_proxy", f"http://{CANARY}:1")
    monkeypatch.setenv("GATEWAY_SECRET", CANARY)
    spec = spec_of(image, ["/usr/bin/python3", "-I", "-S", "/srv/probe.py"])

    async def work() -> tuple[bytes, bytes]:
        cell = await Podman().start(spec)
        try:
            return await asyncio.to_thread(cell.process.communicate, b"")
        finally:
            cell.end()

    out, err = asyncio.run(work())
    assert out, err
    said = json.loads(out)
    assert said["uid"] == spec.user >= 0x70000000
    assert not any(said["capabilities"].values())
    assert (said["no_new_privs"], said["seccomp"]) == (1, 2)
    assert said["errno"]
    assert all(said["errno"].values()), said["errno"]
    assert (said["writable"], said["interfaces"], said["foreign"]) == ([], ["lo"], [])
    assert said["forks"] < SMALL["processes"]  # type: ignore[operator]
    assert said["tmp_full"]
    assert said["file_size"] == 27  # EFBIG
    assert said["descriptors"] == [0, 1, 2]
    assert said["processes"] == 1
    asyncio.run(until(lambda: not ours(), 20))


def test_a_server_answers_from_its_container_and_sees_nothing_else(
    image: str, granted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The honest half: a command in an image, its declared environment, a directory to read; what is not there."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://{CANARY}:1")
    monkeypatch.setenv("GATEWAY_SECRET", CANARY)
    code = f"""
import os, socket
def fails(action):
    try: action()
    except OSError as error: return type(error).__name__
    return "worked"
found = {{
    "note": open({str(granted / "note")!r}).read(),
    "write": fails(lambda: open({str(granted / "new")!r}, "w")),
    "world": fails(lambda: open("/srv/world", "w")),
    "volume": fails(lambda: open("/granted/x", "w")),
    "net": fails(lambda: socket.create_connection(("1.1.1.1", 443), 2)),
    "metadata": fails(lambda: socket.create_connection(("169.254.169.254", 80), 2)),
    "shadow": fails(lambda: open("/etc/shadow")),
    "resolver": os.path.exists("/etc/resolv.conf"),
    "env": dict(os.environ), "uid": os.getuid(), "home": os.getcwd(),
    "kept": open("/tmp/mine", "w").write("x"),
}}"""
    env = {"KEY": "a=b # c ", "LD_LIBRARY_PATH": "/nowhere"}
    found = run_inside(code, argv=HOSTILE, env=env, isolate="podman", image=image, directories=[{"path": str(granted)}])
    assert found["note"] == "hello"
    assert (found["write"], found["world"], found["volume"]) == ("OSError",) * 3  # EROFS
    assert (found["net"], found["metadata"]) == ("OSError",) * 2  # unreachable
    assert found["shadow"] == "FileNotFoundError"
    assert not found["resolver"]
    assert found["env"]["KEY"] == env["KEY"]
    assert CANARY not in json.dumps(found["env"])
    assert (found["home"], found["kept"]) == ("/cell", 1)
    assert found["uid"] >= 0x70000000


def test_what_docker_run_would_start_is_started_confined(image: str, granted: Path) -> None:
    """The entry as clients write it, and isolate: podman. Its entry point runs, and writes where it may."""
    code = f"open({str(granted / 'new')!r}, 'w').write('x'); import os; found = [os.environ['KEY'], os.getuid()]"
    argv = ["docker", "run", "-i", "--rm", "-e", "KEY", image]
    directories = [{"path": str(granted), "write": True}]
    key, user = run_inside(code, argv=argv, env={"KEY": "v"}, isolate="podman", directories=directories)
    assert key == "v"
    assert (granted / "new").stat().st_uid == user


def test_g2_memory_is_bounded_and_named_as_the_cause(image: str) -> None:
    async def work() -> list[dict[str, Any]]:
        async with inside(argv=HOSTILE, isolate="podman", image=image) as cell:
            assert await cell.run("x = bytearray(8 << 20); found = len(x)") == 8 << 20
            with pytest.raises(UpstreamFault):
                await cell.run("x = bytearray(400 << 20); found = 1")
            await until(lambda: any(event["event"] == "exit" for event in cell.events), 20)
            return cell.events

    ended = [event for event in asyncio.run(work()) if event["event"] == "exit"]
    assert ended[0]["bound"] == "memory"


def test_a_grant_through_a_symbolic_link_is_refused(image: str, tmp_path: Path, granted: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(granted)
    config = configured(HOSTILE, isolate="podman", image=image, directories=[{"path": str(link)}])
    with pytest.raises(UpstreamFault, match="is a symbolic link: grant"):
        asyncio.run(upstream_of("x", config, Cells(())).describe())


def test_an_image_that_is_not_here_is_not_fetched(image: str) -> None:
    other = f"localhost/limen-no-such@sha256:{'0' * 64}"
    config = configured(HOSTILE, isolate="podman", image=other)
    with pytest.raises(UpstreamFault, match="fetch it once with `podman pull`"):
        asyncio.run(upstream_of("x", config, Cells(())).describe())


FORGETS = """#!/bin/sh
[ "$1" = create ] || exec {podman} "$@"
for word; do
  shift
  case "$word" in {pattern}) set -- "$@" {instead} ;; *) set -- "$@" "$word" ;; esac
done
exec {podman} "$@"
"""
DROPPED = [
    ("--memory|--memory-swap", "--label", "memory (unlimited)"),
    ("--memory-swap", "--label", "swap"),
    ("--cpus", "--label", "cpus (unlimited)"),
    ("--pids-limit", "--label", "processes"),
    ("--cap-drop=all", "", "it has capabilities"),
    ("no-new-privileges", "label=disable", "it may gain privileges"),
    ("seccomp=*", "seccomp=unconfined", "no system call is filtered"),
    ("--security-opt", "--label", "its filter lets more pass"),
    ("--network=none", "--network=host", "it shares namespaces with this host: net"),
    ("--read-only", "", "its root can be written to"),
    ("--image-volume=ignore", "", "/granted is mounted and was not granted"),
    ("--http-proxy=false", "--volume=/srv:/host:ro", "/host is mounted and was not granted"),
    ("--user", "--label", "it runs as the user 0"),
]


@pytest.mark.parametrize(("pattern", "instead", "said"), DROPPED)
def test_g1_a_podman_that_forgets_an_option_starts_nothing(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, instead: str, said: str
) -> None:
    """As rootless podman does with limits, and as an administrator's containers.conf can make it do."""
    real = shutil.which("podman")
    script = tmp_path / "podman"
    script.write_text(FORGETS.format(podman=real, pattern=pattern, instead=instead))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o777)
    argv = ["/usr/bin/python3", "-c", f"open({str(folder / 'ran')!r}, 'w')"]
    directories = [Directory(path=str(folder), write=True)]
    spec = spec_of(image, argv, directories=directories, limits={"cpus": 0.5})
    with pytest.raises(UpstreamFault, match="did not confine it") as refused:
        asyncio.run(Podman().start(spec))
    assert said in str(refused.value)
    assert not (folder / "ran").exists()


HOLDS = """
import asyncio, sys
from sandbox.cells_kit import inside
async def main():
    async with inside(argv={argv!r}, isolate="podman", image={image!r}) as cell:
        await cell.run("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); found = 1")
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def test_nothing_outlives_a_gateway_that_is_killed(image: str) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    gateway = subprocess.Popen(
        [sys.executable, "-c", HOLDS.format(argv=HOSTILE, image=image)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == b"ready\n"
        listed = ["ps", "--all", "--filter", f"label={LABEL}={gateway.pid}", "--format", "{{.Names}}"]
        assert container_image.podman(*listed)
    finally:
        gateway.send_signal(signal.SIGKILL)
        gateway.communicate(timeout=20)
    asyncio.run(until(lambda: not container_image.podman(*listed), 20))


def test_what_a_gateway_left_is_removed_by_the_next(image: str) -> None:
    name = f"limen-left-{uuid.uuid4().hex[:8]}"
    container_image.podman("create", "--pull=never", "--name", name, "--label", f"{LABEL}=4194305", image)
    asyncio.run(Podman().properties())
    listed = ["ps", "--all", "--filter", f"name={name}", "--format", "{{.Names}}"]
    asyncio.run(until(lambda: not container_image.podman(*listed), 20))
