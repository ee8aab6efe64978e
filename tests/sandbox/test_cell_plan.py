"""What a cell is made of, decided without a disk: grants, what is never shown, users, the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.adapters.bubblewrap import arguments
from limen.adapters.cgroups import Groups
from limen.adapters.programs import find
from limen.core.cell import Bounds, CellSpec
from limen.core.faults import ConfigFault, UpstreamFault
from limen.sandbox.cell import HOME, Program, plan, user_of
from limen.sandbox.properties import Tried, judge
from limen.sandbox.settings import Directory, Limits

HOMES = "/ho" + "me"


def program(**more: Any) -> Program:
    known = {
        "argv": ("/usr/bin/server",), "trees": (), "files": ("/usr/bin/server",), "system": ("/usr", "/etc/ssl/certs"),
        "links": {"/bin": "usr/bin"},
    }  # fmt: skip
    return Program(**{**known, **more})


def planned(known: Program | None = None, **more: Any) -> CellSpec:
    return plan("s", known or program(), **{"limits": Limits(), "env": {}, "uid": 1000, **more})


def shown(spec: CellSpec) -> dict[str, bool]:
    return {mount.target: mount.write for mount in spec.mounts if mount.source}


def test_a_program_of_the_system_gets_the_system_and_nothing_else() -> None:
    spec = planned()
    assert shown(spec) == {"/usr": False, "/etc/ssl/certs": False}
    assert (spec.cwd, dict(spec.links), spec.ports) == (HOME, {"/bin": "usr/bin"}, ())


@pytest.mark.parametrize("wide", ["/", "/etc", "/tmp", "/opt", HOMES, f"{HOMES}/me", f"{HOMES}/me/.local", "/srv"])
def test_g4_a_directory_is_not_shown_because_a_script_lies_in_it(wide: str) -> None:
    script = f"{wide.rstrip('/')}/server.py"
    spec = planned(program(trees=((wide, script),)), home=f"{HOMES}/me")
    assert shown(spec) == {"/usr": False, "/etc/ssl/certs": False, script: False}
    narrow = planned(program(trees=((f"{HOMES}/me/project", script),)), home=f"{HOMES}/me")
    assert f"{HOMES}/me/project" in shown(narrow)


def test_g4_a_working_directory_is_shown_where_a_program_s_own_would_be() -> None:
    assert planned(program(cwd="/srv/app")).cwd == "/srv/app"
    hidden = planned(program(cwd="/srv/app"), private=("/srv/app/limen-state/audit.key",))
    assert hidden.cwd == HOME
    assert "/srv/app" not in shown(hidden)


@pytest.mark.parametrize("path", ["/srv/limen", "/srv", "/srv/limen/audit/log"])
def test_g4_files_of_limen_cannot_be_granted(path: str) -> None:
    with pytest.raises(ConfigFault, match="holds files of Limen"):
        planned(directories=[Directory(path=path)], private=("/srv/limen/audit",))
    assert (
        shown(planned(directories=[Directory(path="/srv/data")], private=("/srv/limen/audit",)))["/srv/data"] is False
    )


def test_g4_a_home_directory_and_the_program_itself_cannot_be_granted_to_write() -> None:
    with pytest.raises(ConfigFault, match="holds a home directory"):
        planned(directories=[Directory(path=f"{HOMES}/me")], home=f"{HOMES}/me")
    own = program(files=("/srv/app/server.py",), trees=(("/srv/app", "/srv/app/server.py"),))
    with pytest.raises(ConfigFault, match="could rewrite"):
        planned(own, directories=[Directory(path="/srv/app", write=True)])
    assert shown(planned(own, directories=[Directory(path="/srv/app/data", write=True)]))["/srv/app/data"] is True


def test_a_grant_is_opened_without_following_links_and_what_is_shown_anyway_is_not() -> None:
    spec = planned(directories=[Directory(path="/srv/data", write=True)])
    assert {mount.target: mount.exact for mount in spec.mounts} == {
        "/srv/data": True,
        "/usr": False,
        "/etc/ssl/certs": False,
    }


def test_trap_8_another_languages_package_manager_is_hidden_unless_granted() -> None:
    known = program(present=("/usr/bin/node", "/usr/lib/npm.js"))
    assert [mount.target for mount in planned(known).mounts if not mount.source] == ["/usr/bin/node", "/usr/lib/npm.js"]
    granted = planned(known, directories=[Directory(path="/usr/bin/node")])
    assert [mount.target for mount in granted.mounts if not mount.source] == ["/usr/lib/npm.js"]
    node = program(files=("/usr/bin/node",), argv=("/usr/bin/node",), present=("/usr/bin/node",))
    assert all(mount.source for mount in planned(node).mounts)


def test_g3_as_root_every_server_has_a_user_of_its_own() -> None:
    one, other = planned(root=True, uid=0), plan("t", program(), limits=Limits(), env={}, root=True)
    assert one.user == user_of("s") != other.user == user_of("t")
    assert min(one.user, other.user) >= 0x70000000
    assert max(one.user, other.user) < 0x78000000
    assert planned(uid=1000).user == 1000


def test_g6_the_environment_is_what_was_declared_and_four_more() -> None:
    spec = planned(env={"KEY": "v", "HOME": "/srv"}, language="C.UTF-8")
    assert spec.env == {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/srv", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "KEY": "v",
    }  # fmt: skip
    assert "KEY" not in repr(spec)  # what is printed by accident holds no secret


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["/a", "/a/b", "/a/b/c", "/ab", "/d/e", "/usr", "/usr/x"]), min_size=1, unique=True))
def test_what_is_inside_another_mount_is_not_mounted_again(paths: list[str]) -> None:
    known = program(trees=tuple((path, "") for path in paths), system=())
    targets = list(shown(planned(known)))
    assert all(any(path == one or path.startswith(f"{one}/") for one in targets) for path in paths)
    assert not [(a, b) for a in targets for b in targets if b.startswith(f"{a}/")]


def test_secrets_and_paths_of_ours_are_in_no_argument() -> None:
    spec = planned(env={"KEY": "canary"}, directories=[Directory(path="/srv/data", write=True)])
    line = arguments(spec, {}, ["passwd", "hidden"])
    assert "canary" not in " ".join(line)
    assert line[line.index("/srv/data") - 2 : line.index("/srv/data") + 1] == ["--bind", "/tmp/1", "/srv/data"]
    assert {"--unshare-net", "--disable-userns", "--die-with-parent", "--new-session", "--unshare-pid"} <= set(line)
    assert "--unshare-net" not in arguments(CellSpec(**{**_fields(spec), "ports": (443,)}), {}, [])


def _fields(spec: CellSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in CellSpec.__dataclass_fields__}


def test_what_a_command_needs_is_found_by_real_path(tmp_path: Path) -> None:
    """A link to an environment, whose interpreter is a link to a script that another interpreter runs."""
    venv, project = tmp_path / "venv", tmp_path / "project"
    for path in (venv / "bin", venv / "lib" / "python3.11" / "site-packages", project / "src"):
        path.mkdir(parents=True)
    for path in (tmp_path, venv, project):
        path.chmod(0o755)
    (venv / "pyvenv.cfg").write_text("home = /nonexistent\n")
    (venv / "lib" / "python3.11" / "site-packages" / "edit.pth").write_text(f"{project / 'src'}\nimport x\n")
    (venv / "bin" / "tool").write_text("#!/usr/bin/env -S sh -e\n")
    (venv / "bin" / "tool").chmod(0o755)
    (tmp_path / "linked").symlink_to("venv")
    (project / "pyproject.toml").touch()
    (project / "src" / "run.py").touch()
    known = find(
        "s",
        [str(tmp_path / "linked" / "bin" / "tool"), str(project / "src" / "run.py"), "data.txt"],
        path="/usr/bin",
        cwd="/",
    )
    trees = dict(known.trees)
    assert {str(venv), str(project), str(project / "src")} <= set(trees)
    assert known.links[str(tmp_path / "linked")] == "venv"
    assert any(path.startswith("/usr/bin/") for path in known.files)  # the shell its first line names
    with pytest.raises(UpstreamFault, match="is not found"):
        find("s", ["no-such-command"], path=str(tmp_path), cwd="/")


BOUNDS = Bounds(memory=1 << 28, processes=32, files=64, file_size=1 << 20, tmp=1 << 20, cpus=0.5)


def test_version_2_groups_in_a_delegated_subtree(tmp_path: Path) -> None:
    """Files as the kernel shows them: this machine has version 1. What the kernel does with them is not tested here."""
    mine = tmp_path / "user.slice" / "limen.service"
    (mine / "limen-gateway").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (mine / "cgroup.controllers").write_text("")  # all are on already: a file keeps what is written, the kernel adds
    (mine / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (mine / "cgroup.procs").write_text("")
    own = tmp_path / "own"
    own.write_text("0::/user.slice/limen.service\n")
    groups = Groups(tmp_path, own)
    assert (groups.unified, groups.why) == (True, "")
    group = groups.make(BOUNDS)
    (place,) = set(group.places.values())
    assert (place / "memory.max").read_text() == str(1 << 28)
    assert (place / "pids.max").read_text() == "34"
    assert (place / "cpu.max").read_text() == "50000 100000"
    (place / "memory.current").write_text("1000\n")
    (place / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (place / "memory.events").write_text("oom 0\noom_kill 1\n")
    used = group.usage()
    assert used is not None
    assert (used.memory, used.cpu) == (1000, 2.5)
    assert group.bound_hit() == "memory"


def test_groups_that_were_not_delegated_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    own = tmp_path / "own"
    own.write_text("0::/\n")
    groups = Groups(tmp_path, own)
    assert not groups.places
    assert "Delegate=yes" in groups.why


def test_what_was_not_tried_does_not_hold() -> None:
    nothing = {one.name: one for one in judge(Tried(bubblewrap="", groups="", machine="riscv64"))}
    assert not nothing["bubblewrap"].holds
    assert not nothing["architecture"].holds
    assert not nothing["user namespace"].holds
    assert "install bubblewrap" in nothing["user namespace"].remedy
    silent = judge(
        Tried(bubblewrap="/usr/bin/bwrap", groups="", machine="x86_64", said={"host_uid": 1, "scoped": False})
    )
    assert not [
        one
        for one in silent
        if one.needed and one.holds and one.name not in ("bubblewrap", "architecture", "user namespace")
    ]
