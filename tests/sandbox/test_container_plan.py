"""Containers without an engine: what may be configured, what is looked for in one, and its filter of system calls."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from limen.adapters.cgroups import group_of
from limen.adapters.egress_proxy import EgressGate
from limen.cli.main import app
from limen.config.model import Config
from limen.config.servers import ServerConfig
from limen.core.cell import CellSpec, Mount
from limen.core.faults import ConfigFault
from limen.gateway.cells import Cells, states_path
from limen.gateway.run import launcher
from limen.sandbox.cell import containerised
from limen.sandbox.container import Mounted, Seen, engine_properties, faults, mounted
from limen.sandbox.egress_rules import EgressSettings
from limen.sandbox.seccomp import ARCHITECTURES, DEMANDS, allowed, table
from limen.sandbox.seccomp_oci import profile
from limen.sandbox.settings import Directory, Limits
from sandbox.test_cell_filter import ALLOW, verdict

IMAGE = f"ghcr.io/org/server@sha256:{'a' * 64}"
TAGGED = f"ghcr.io/org/server:1.2@sha256:{'a' * 64}"


# what may be configured


def server(command: str = "srv", *args: str, **security: Any) -> ServerConfig:
    return ServerConfig.model_validate({"command": command, "args": args, "security": security})


def planned(config: ServerConfig) -> Any:
    return launcher(Config.model_validate({})).plan("srv", config)


def test_a_command_in_an_image_is_planned_by_its_digest() -> None:
    plan = planned(server("srv", "--flag", isolate="podman", image=TAGGED))
    assert (plan.image, plan.argv, plan.digest) == (IMAGE, ("srv", "--flag"), f"sha256-{'a' * 64}")


@pytest.mark.parametrize("engine", ["docker", "/usr/bin/podman"])
def test_what_an_engine_would_start_is_planned_without_it(engine: str) -> None:
    plan = planned(server(engine, "run", "-i", "--rm", "-e", "KEY", TAGGED, "--flag", isolate="podman"))
    assert (plan.image, plan.argv) == (IMAGE, ("", "--flag"))


def test_an_image_that_is_not_the_one_named_is_not_started() -> None:
    from limen.core.faults import UpstreamFault

    with pytest.raises(UpstreamFault, match=r"security\.artifact says"):
        planned(server(isolate="podman", image=IMAGE, artifact=f"sha256-{'b' * 64}"))


@pytest.mark.parametrize(
    ("command", "security", "said"),
    [
        (["docker", "run", "-i", IMAGE], {}, "set security.isolate: podman"),
        (["podman", "run", "-i", IMAGE], {}, "has no container engine"),
        (["srv"], {"image": IMAGE}, "security.image goes with security.isolate: podman"),
        (["srv"], {"isolate": "podman"}, "needs security.image"),
        (["srv"], {"isolate": "podman", "image": "ghcr.io/org/server:latest"}, "not named by its digest"),
        (["srv"], {"isolate": "podman", "image": IMAGE, "egress": ["a.example:443"]}, "it has no network at all"),
        (["srv"], {"isolate": "podman", "image": IMAGE, "unsafe_no_sandbox": True}, "unsafe_no_sandbox"),
        (["srv"], {"isolate": "podman", "image": IMAGE, "unsafe_unverified": True}, "unsafe_unverified"),
        (["docker", "run", IMAGE], {"isolate": "podman", "image": IMAGE}, "leave security.image out"),
        (["docker", "run", "-v", "/srv:/srv", IMAGE], {"isolate": "podman"}, "is Limen's to set"),
        (["docker", "run", "--network", "bridge", IMAGE], {"isolate": "podman"}, "is Limen's to set"),
        (["docker", "run", "-e", "KEY=secret", IMAGE], {"isolate": "podman"}, "is Limen's to set"),
        (["docker", "run", "--privileged", IMAGE], {"isolate": "podman"}, "is not supported"),
        (["docker", "run", "org/server:latest"], {"isolate": "podman"}, "not named by its digest"),
    ],
)
def test_what_cannot_be_confined_is_refused_when_the_file_is_read(
    command: list[str], security: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        server(*command, **security)
    assert "KEY=secret" not in str(refused.value)


def test_an_engine_may_still_be_run_without_the_sandbox() -> None:
    assert planned(server("docker", "run", "-i", IMAGE, unsafe_no_sandbox=True)).argv[:3] == (
        "docker", "run", "--pull=never",
    )  # fmt: skip


def test_what_holds_files_of_ours_is_not_granted_to_a_container() -> None:
    with pytest.raises(ConfigFault, match="holds files of Limen"):
        containerised(
            "srv", IMAGE, ["srv"], limits=Limits(), env={}, directories=[Directory(path="/srv/limen")],
            private=["/srv/limen/audit.key"],
        )  # fmt: skip


# what is looked for in a container

GOOD = {
    "Uid": "7 7 7 7",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    **{f"Cap{one}": "0" for one in ("Eff", "Prm", "Bnd", "Amb", "Inh")},
}
MOUNTS = r"""73 48 0:40 / / ro,relatime - overlay overlay rw,lowerdir=/x
74 73 0:43 / /sys ro,nosuid - sysfs sysfs ro
75 73 0:45 / /proc rw,nosuid - proc proc rw
76 73 0:44 / /cell rw,nosuid - tmpfs tmpfs rw,size=1024k
79 73 0:47 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1024k
81 77 0:39 / /dev/shm rw,nosuid - tmpfs shm rw,size=1024k
82 73 254:0 /c/passwd /etc/passwd ro,nosuid master:1 - ext4 /dev/vda rw
83 73 254:0 /srv /srv/with\040space ro - ext4 /dev/vda rw
84 73 254:0 /own /srv/own rw - ext4 /dev/vda rw
"""
SPEC = CellSpec(
    "srv", ("x",), "/cell", Limits().bounds, 7,
    mounts=(Mount("/srv/with space", "/srv/with space"), Mount("/srv/own", "/srv/own", write=True)),
)  # fmt: skip
FILTER = json.loads(profile("x86_64"))
KEPT = Seen(GOOD, mounted(MOUNTS), (), ("lo",), (), (), FILTER)


def test_a_container_that_keeps_every_promise_is_a_cell() -> None:
    assert faults(SPEC, KEPT) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": GOOD | {"Uid": "7 7 0 7"}}, "it runs as the user 7/7/0/7, not 7"),
        ({"status": {}}, "it runs as the user 0"),
        ({"status": GOOD | {"CapBnd": "00000000a80425fb"}}, "it has capabilities"),
        ({"status": GOOD | {"NoNewPrivs": "0"}}, "it may gain privileges"),
        ({"status": GOOD | {"Seccomp": "0"}}, "no system call is filtered"),
        ({"filtered": {}}, "its filter lets more pass: everything"),
        ({"filtered": FILTER | {"syscalls": [{"names": ["read", "keyctl"], "action": "SCMP_ACT_LOG"}]}}, "keyctl"),
        ({"filtered": FILTER | {"syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW"}]}}, "pass: socket"),
        ({"interfaces": ("lo", "eth0")}, "it has a network: lo, eth0"),
        ({"interfaces": ()}, "it has a network"),
        ({"shared": ("pid",)}, "it shares namespaces with this host: pid"),
        ({"foreign": ("/srv/own",)}, "something else is mounted instead of /srv/own"),
        ({"dropped": ("memory (unlimited)",)}, "limits are not in force: memory"),
        ({"mounts": mounted(MOUNTS.replace("/ / ro", "/ / rw"))}, "its root can be written to"),
        ({"mounts": mounted(MOUNTS.replace("space ro", "space rw"))}, "/srv/with space can be written to"),
        ({"mounts": mounted(MOUNTS + "9 73 1:1 / /host ro - ext4 x rw\n")}, "/host is mounted and was not granted"),
        ({"mounts": mounted(MOUNTS + "9 73 1:1 / /srv/own/x ro - ext4 x rw\n")}, "/srv/own/x is mounted"),
        ({"mounts": mounted(MOUNTS + "9 73 1:1 / /var rw - tmpfs x rw\n")}, "/var is mounted and can be written to"),
        ({"mounts": mounted(MOUNTS.replace("/etc/passwd ro", "/etc/passwd rw"))}, "/etc/passwd is mounted"),
        ({"mounts": KEPT.mounts[:-1]}, "/srv/own is not mounted"),
        ({"mounts": ()}, "its root can be written to"),
    ],
)
def test_g1_a_container_that_breaks_one_promise_is_none(changed: dict[str, Any], said: str) -> None:
    (first, *_) = faults(SPEC, KEPT._replace(**changed))
    assert said in first


def test_mount_points_are_read_as_the_kernel_writes_them() -> None:
    assert mounted(MOUNTS)[-2] == Mounted("/srv/with space", frozenset({"ro"}), "ext4")


def test_g2_limits_are_read_back_from_version_2_groups(tmp_path: Path) -> None:
    bounds = replace(Limits().bounds, memory=1 << 26, processes=24, cpus=0.5)
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/libpod/x\n")
    (tmp_path / "cgroup.controllers").write_text("memory pids cpu\n")
    place = tmp_path / "libpod" / "x"
    place.mkdir(parents=True)
    held = {
        "cgroup.controllers": "memory pids cpu", "memory.max": str(1 << 26), "memory.swap.max": "0", "pids.max": "24",
        "cpu.max": "50000 100000",
    }  # fmt: skip

    def dropped(**changed: str) -> list[str]:
        for name, text in {**held, **{name.replace("_", "."): text for name, text in changed.items()}}.items():
            (place / name).write_text(f"{text}\n")
        return group_of(7, tmp_path, tmp_path / "proc").dropped(bounds)

    assert dropped() == []
    assert dropped(memory_max="max") == ["memory (unlimited)"]
    assert dropped(memory_max=str(1 << 27)) == ["memory (1.34218e+08)"]
    assert dropped(memory_swap_max="max") == ["swap"]
    assert dropped(pids_max="max") == ["processes (unlimited)"]
    assert dropped(cpu_max="max 100000") == ["cpus (unlimited)"]
    (place / "pids.max").unlink()
    assert dropped() == []


ROOTFUL: dict[str, Any] = {
    "cgroupVersion": "v1", "cgroupControllers": ["memory", "pids", "cpu"], "ociRuntime": {"name": "runc"},
    "security": {"rootless": False, "seccompEnabled": True},
}  # fmt: skip
ROOTLESS = ROOTFUL | {"security": {"rootless": True, "seccompEnabled": True}}


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (ROOTFUL, []),
        (ROOTLESS | {"cgroupVersion": "v2"}, []),
        (ROOTLESS, ["podman limits"]),
        (ROOTFUL | {"cgroupControllers": ["memory"]}, ["podman limits"]),
        (ROOTFUL | {"security": {"rootless": False}}, ["podman system call filter"]),
        ({"cgroupVersion": "v1"}, ["podman system call filter", "podman limits", "podman runtime"]),
    ],
)
def test_an_engine_that_cannot_limit_or_filter_starts_nothing(told: dict[str, Any], missing: list[str]) -> None:
    rows = engine_properties("/usr/bin/podman", told, "x86_64")
    assert [one.name for one in rows if not one.holds] == missing


# the filter


def oci_allows(document: Any, name: str, arguments: tuple[int, ...]) -> bool:
    """As libseccomp compiles it: any rule of this name, all conditions of a rule."""
    return any(
        all(arguments[one["index"]] & one["value"] == one["valueTwo"] for one in rule.get("args", ()))
        for rule in document["syscalls"]
        if name in rule["names"]
    )


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_g3_the_filter_of_containers_allows_what_that_of_cells_does(machine: str) -> None:
    """Random arguments around every value that matters, for each call that is looked at closer; and all others."""
    document = json.loads(profile(machine))
    assert (document["defaultAction"], document["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    plain = set(document["syscalls"][0]["names"])
    assert plain == set(allowed()) - set(DEMANDS)
    assert all(rule["action"] == "SCMP_ACT_ALLOW" for rule in document["syscalls"])
    chance = random.Random(7)
    interesting = [0, 1, 2, 5, 6, 10, 17, 0o6000, 0o100, 0x5412, 0x541C, 0x5401, 0x7E020000, 0xFFFFFFFF, 0o020000]
    for name in DEMANDS:
        number = table()["numbers"][machine].get(name)
        for _ in range(300 if number is not None else 0):
            values = [chance.choice(interesting) ^ chance.choice([0, 0, 1 << chance.randrange(34)]) for _ in range(6)]
            expected = verdict(machine, number, *values) == ALLOW
            assert oci_allows(document, name, tuple(values)) == expected, (name, values)


# what is told of it


def test_the_posture_says_for_each_server_where_it_may_connect_to(tmp_path: Path) -> None:
    """G5: a row for every local server, and what loosens it."""
    servers: dict[str, Any] = {
        "closed": {"command": "srv"},
        "open": {"command": "srv", "security": {"egress": ["a.example:443"]}},
        "learning": {"command": "srv", "security": {"egress": {"mode": "learn", "allow": []}}},
        "hidden": {"command": "srv", "security": {"egress": {"allow": ["a.example:443"], "unsafe_ech": True}}},
        "bare": {"command": "srv", "security": {"unsafe_no_sandbox": True}},
        "boxed": {"command": "srv", "security": {"isolate": "podman", "image": IMAGE}},
        "remote": {"url": "https://mcp.example.com/"},
    }
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": servers, "identity": {"unsafe_anonymous": True}}))
    path.chmod(0o600)
    result = CliRunner().invoke(app, ["-c", str(path), "posture", "--json"])
    rows = {row["guard"]: row for row in json.loads(result.stdout)}
    states = {name: row["state"] for name, row in rows.items() if row["control"] == "G5"}
    assert states == {
        "egress closed": "no network", "egress open": "enforced", "egress learning": "learning",
        "egress hidden": "loosened", "egress bare": "absent", "egress boxed": "no network",
    }  # fmt: skip
    assert rows["egress hidden"]["loosened"] == "mcpServers.hidden.security.egress.unsafe_ech"
    assert rows["sandbox"]["state"] == "absent"  # of the last one: each kind has a row of its own
    assert rows["container"]["state"] == "enforced"


def test_the_status_of_servers_tells_what_their_network_did(tmp_path: Path) -> None:
    """What a gateway writes down for `limen servers status`, and what that shows."""
    import time

    cells = Cells(())
    allow = EgressSettings.model_validate(["a.example:443"])
    cells.gates = {"open": EgressGate("open", allow, print), "closed": EgressGate("closed", EgressSettings(), print)}
    cells.gates["open"].counters.update({"allowed": 2, "refused": 1, "dns.not_allowed": 1, "sent": 10, "received": 20})
    base = {"running": True, "starts": 1, "failures": 0}
    told = cells.states([{"server": name, **base} for name in ("open", "closed", "bare")])
    assert ["egress" in row for row in told] == [True, False, False]
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"identity": {"unsafe_anonymous": True}, "storage": {"path": str(tmp_path / "x.db")}}))
    path.chmod(0o600)
    from limen.config.load import load_config

    states_path(load_config(path).config).write_text(json.dumps({"pid": 1, "ts": time.time(), "servers": told}))
    result = CliRunner().invoke(app, ["-c", str(path), "servers", "status", "--json"])
    first, second, _ = json.loads(result.stdout)["servers"]
    assert (first["allowed"], first["refused"], first["sent"], first["received"]) == (2, 1, 10, 20)
    assert first["egress"]["dns.not_allowed"] == 1
    assert (second["allowed"], second["egress"]) == (None, None)
    shown = CliRunner().invoke(app, ["-c", str(path), "servers", "status"]).stdout
    assert "received" in shown.splitlines()[0]
