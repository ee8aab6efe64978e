"""The store: what it fetches, what it refuses, and that nothing of a package runs before it is started (SC-01, SC-03,
H2)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_registry import JS, PY, Registry, npm_files

from limen.adapters.keys import FileSigner
from limen.adapters.package_store import PackageStore
from limen.core.faults import DependencyFault
from limen.sandbox.launch import NotLaunchable, read
from limen.sandbox.packages import Package, Record

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    registry = Registry()
    for name in [name for name in os.environ if name.upper().startswith(("NPM_CONFIG_", "PIP_"))]:
        monkeypatch.delenv(name)
    for name, value in registry.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield registry
    registry.close()


@pytest.fixture
def store(tmp_path: Path) -> PackageStore:
    return opened(tmp_path)


def opened(folder: Path) -> PackageStore:
    return PackageStore(folder / "packages", FileSigner.open(folder / "key", "limen"))


def asked(line: str) -> Package:
    command, *args = line.split(" ")
    form = read(command, args)
    assert isinstance(form, Package)
    return form


def install(store: PackageStore, line: str, **more: bool) -> Record:
    return store.install(asked(line), {}, lambda text: None, **more)[0]


def tree(folder: Path, record: Record) -> Path:
    return folder / "packages" / "trees" / record.tree


def nothing(folder: Path) -> bool:
    """Neither a tree nor a record nor rubbish is left."""
    return not any(any((folder / "packages" / part).glob("*")) for part in ("trees", "records", "work"))


@needs_npm
def test_install_scripts_do_not_run_and_are_told(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    """SC-01: a trojaned package acts while being installed."""
    hook = f"node -e \"require('fs').writeFileSync('{tmp_path}/owned', '')\""
    hooks = dict.fromkeys(("preinstall", "install", "postinstall", "prepare", "prepack"), hook)
    shop.npm(npm_files("dep", "1.0.0", scripts=hooks))
    shop.npm(npm_files("srv", "1.0.0", scripts=hooks, dependencies={"dep": "1.0.0"}))
    record = install(store, "npx -y srv@1.0.0")
    assert not (tmp_path / "owned").exists()
    assert {(part.name, part.scripts) for part in record.parts} == {("dep", True), ("srv", True)}
    plan = store.plan(asked("npx -y srv@1.0.0 one two"), {})
    assert plan.argv[1:] == (str(tree(tmp_path, record) / "node_modules/srv/server.js"), "one", "two")
    assert plan.digest == record.digest


@needs_npm
def test_a_version_is_resolved_once_and_started_without_asking_anybody(shop: Registry, store: PackageStore) -> None:
    """SC-03: `npx -y pkg` means today's version only until tomorrow."""
    shop.npm(npm_files("srv", "1.0.0"))
    with pytest.raises(NotLaunchable, match="not installed"):
        store.plan(asked("npx -y srv"), {})
    first = install(store, "npx -y srv")
    shop.npm(npm_files("srv", "2.0.0", JS + "// new"))
    count = len(shop.seen)
    assert store.plan(asked("npx -y srv"), {}).digest == install(store, "npx -y srv").digest == first.digest
    assert len(shop.seen) == count
    second, changed = store.install(asked("npx -y srv"), {}, lambda text: None, update=True)
    assert changed == ["srv: 1.0.0 -> 2.0.0"]
    assert store.plan(asked("npx -y srv"), {}).digest == second.digest != first.digest


@needs_npm
def test_another_content_under_the_same_version_is_refused(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    """SC-09: the registry serves another archive for a version that was published."""
    shop.npm(npm_files("srv", "1.0.0"))
    first = install(store, "npx -y srv@1.0.0")
    shop.npm(npm_files("srv", "1.0.0", JS + "// owned"))
    shutil.rmtree(tmp_path / "npm-cache")
    with pytest.raises(NotLaunchable, match="other content under an unchanged version: srv"):
        install(store, "npx -y srv@1.0.0", update=True)
    assert store.plan(asked("npx -y srv@1.0.0"), {}).digest == first.digest
    assert install(store, "npx -y srv@1.0.0", update=True, replace=True).digest != first.digest


@needs_npm
@pytest.mark.parametrize(
    "dependency", ["git+https://127.0.0.1:9/x.git", "git+file:///tmp/x", "file:../../../../etc", "link:../x"]
)
def test_dependencies_from_elsewhere_are_refused(
    shop: Registry, store: PackageStore, tmp_path: Path, dependency: str
) -> None:
    shop.npm(npm_files("srv", "1.0.0", dependencies={"dep": dependency}))
    with pytest.raises((NotLaunchable, DependencyFault)):
        install(store, "npx -y srv@1.0.0")
    assert nothing(tmp_path)


@needs_npm
def test_links_and_paths_that_lead_out_of_an_archive_lead_nowhere(
    shop: Registry, store: PackageStore, tmp_path: Path
) -> None:
    """CI-04: a symbolic link or `..` in the archive. npm drops both; what it left would be refused by the digest."""
    files = npm_files("srv", "1.0.0") | {"../../../../owned.js": "x", "out/passwd": "x"}
    shop.npm(files, links={"out": str(tmp_path), "passwd": "/etc/passwd"})
    try:
        record = install(store, "npx -y srv@1.0.0")
    except (NotLaunchable, DependencyFault):
        assert nothing(tmp_path)
    else:
        assert not [
            path for path in tree(tmp_path, record).rglob("*") if path.is_symlink() and path.parent.name != ".bin"
        ]
    assert not [path for path in tmp_path.rglob("owned.js") if "trees" not in path.parts]
    assert not (tmp_path / "passwd").exists()


@needs_npm
def test_executables_outside_of_the_package_are_refused(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    shop.npm(npm_files("srv", "1.0.0", bin={"srv": "../../../../../../bin/sh"}))
    with pytest.raises(NotLaunchable):
        install(store, "npx -y srv@1.0.0")
    assert nothing(tmp_path)


def test_an_sdist_is_never_built(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    """setup.py would run while being installed: only wheels are taken."""
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        text = f"open({str(tmp_path / 'owned')!r}, 'w')".encode()
        for name, data in (("srv-1.0/setup.py", text), ("srv-1.0/PKG-INFO", b"Name: srv\nVersion: 1.0\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    shop.python("srv-1.0.tar.gz", made.getvalue())
    with pytest.raises(DependencyFault):
        install(store, "uvx srv==1.0")
    assert not (tmp_path / "owned").exists()
    shop.wheel("srv", "1.0")
    assert install(store, "uvx srv==1.0").commands == {"srv": "srv:main"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"files": {"../evil.py": "x"}}, "written elsewhere"),
        ({"files": {"/tmp/evil.py": "x"}}, "written elsewhere"),
        ({"files": {"a/../../evil.py": "x"}}, "written elsewhere"),
        ({"files": {"a\\..\\evil.py": "x"}}, "written elsewhere|RECORD"),
        ({"files": {"srv-1.0.data/scripts/../../evil": "x"}}, "written elsewhere"),
        ({"unlisted": {"srv/backdoor.py": "x"}}, "RECORD does not list"),
        ({"record": "srv.py,sha256=AAAA,1\n"}, "RECORD"),
        ({"scripts": "srv = os:system;x"}, "entry point"),
    ],
)
def test_wheels_that_are_not_what_they_say_are_refused(
    shop: Registry, store: PackageStore, tmp_path: Path, more: dict[str, object], message: str
) -> None:
    """Path traversal in a wheel, files its RECORD does not know, content it does not name."""
    shop.wheel("srv", "1.0", **more)
    with pytest.raises((NotLaunchable, DependencyFault), match=message):
        install(store, "uvx srv==1.0")
    assert not list(tmp_path.rglob("evil*"))
    assert nothing(tmp_path)


def test_a_wheel_that_wants_another_from_an_address_is_refused(
    shop: Registry, store: PackageStore, tmp_path: Path
) -> None:
    """PEP 508: `name @ url` leads past the index."""
    shop.wheel("dep", "1.0")
    shop.wheel("srv", "1.0", requires=(f"dep @ {shop.url}/files/dep-1.0-py3-none-any.whl",))
    with pytest.raises(NotLaunchable, match="srv: wants dep from an address"):
        install(store, "uvx srv==1.0")
    assert nothing(tmp_path)
    shop.wheel("srv", "1.0", requires=("dep>=1",))
    assert [part.name for part in install(store, "uvx srv==1.0").parts] == ["dep", "srv"]


def test_wheels_with_links_are_refused(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    """CI-04."""
    import io
    import zipfile

    from package_registry import wheel

    made = io.BytesIO(wheel("srv", "1.0"))
    with zipfile.ZipFile(made, "a") as archive:
        link = zipfile.ZipInfo("srv_link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    shop.python("srv-1.0-py3-none-any.whl", made.getvalue())
    with pytest.raises(NotLaunchable, match="neither a file nor a directory"):
        install(store, "uvx srv==1.0")


def test_the_same_wheels_make_the_same_tree_anywhere(shop: Registry, tmp_path: Path) -> None:
    shop.wheel("srv", "1.0", {"srv.py": PY, "srv_data/x.txt": "x", "srv-1.0.data/scripts/tool": "#!python\n"})
    folders = [tmp_path / "a", tmp_path / "b" / "deeper"]
    for folder in folders:
        folder.mkdir(parents=True)
    first, second = (install(opened(folder), "uvx srv==1.0") for folder in folders)
    assert first.digest == second.digest
    assert (tree(folders[0], first) / "site" / "srv_data" / "x.txt").read_text() == "x"


def swap(path: Path) -> None:
    path.chmod(0o644)
    told = path.stat()
    path.write_text(path.read_text().replace("Say hello.", "Do hello!!"[:10]))
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    path.chmod(0o444)


def add(path: Path) -> None:
    path.parent.chmod(0o755)
    (path.parent / "json.py").write_text("import os\n")
    path.parent.chmod(0o555)


def link(path: Path) -> None:
    path.parent.chmod(0o755)
    path.unlink()
    path.symlink_to("/etc/passwd")


def compiled(path: Path) -> None:
    place = next((path.parent / "__pycache__").iterdir())
    place.chmod(0o644)
    data = place.read_bytes()
    place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("tamper", [swap, add, link, compiled, Path.unlink], ids=lambda one: one.__name__)
@pytest.mark.parametrize("known", [True, False], ids=["seen before", "first start"])
def test_a_tree_that_somebody_changed_is_not_started(
    shop: Registry, store: PackageStore, tmp_path: Path, tamper: object, known: bool
) -> None:
    """H2: a swapped artifact is refused, also with its size and time put back, and put right by installing again."""
    shop.wheel("srv", "1.0")
    record = install(store, "uvx srv==1.0")
    if known:
        assert store.plan(asked("uvx srv==1.0"), {}).digest == record.digest
    path = tree(tmp_path, record) / "site" / "srv.py"
    path.parent.chmod(0o755)
    tamper(path)  # type: ignore[operator]
    fresh = store if known else opened(tmp_path)
    for _ in range(2):
        with pytest.raises(NotLaunchable, match=r"somebody changed them|leads out"):
            fresh.plan(asked("uvx srv==1.0"), {})
    assert install(fresh, "uvx srv==1.0", update=True).digest == record.digest
    assert fresh.plan(asked("uvx srv==1.0"), {}).digest == record.digest


def test_records_are_signed_and_belong_to_their_request(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    shop.wheel("good", "1.0")
    shop.wheel("evil", "1.0")
    install(store, "uvx good==1.0")
    install(store, "uvx evil==1.0")
    records = tmp_path / "packages" / "records"
    good, evil = (records / f"{asked(f'uvx {name}==1.0').request}.json" for name in ("good", "evil"))
    kept = good.read_bytes()
    shutil.copy(evil, good)
    with pytest.raises(NotLaunchable, match="another request"):
        store.plan(asked("uvx good==1.0"), {})
    edited = json.loads(kept)
    edited["record"]["tree"] = json.loads(evil.read_bytes())["record"]["tree"]
    good.write_text(json.dumps(edited))
    with pytest.raises(NotLaunchable, match="does not verify"):
        store.plan(asked("uvx good==1.0"), {})
    good.write_bytes(kept)
    assert store.plan(asked("uvx good==1.0"), {}).argv[-1] == "good"
    other = PackageStore(tmp_path / "packages", FileSigner.open(tmp_path / "other", "limen"))
    with pytest.raises(NotLaunchable, match="does not verify"):
        other.plan(asked("uvx good==1.0"), {})


def test_an_artifact_that_is_not_the_one_named_is_neither_recorded_nor_started(
    shop: Registry, store: PackageStore, tmp_path: Path
) -> None:
    shop.wheel("srv", "1.0")
    named = {"security.artifact": f"sha256-{'0' * 64}"}
    with pytest.raises(NotLaunchable, match=r"security\.artifact says"):
        store.install(asked("uvx srv==1.0"), named, lambda text: None)
    assert store.find(asked("uvx srv==1.0")) is None
    record = install(store, "uvx srv==1.0")
    with pytest.raises(NotLaunchable, match=r"security\.artifact says"):
        store.plan(asked("uvx srv==1.0"), named)
    assert store.plan(asked("uvx srv==1.0"), {"the lock": record.digest}).digest == record.digest


def test_startup_files_and_the_environment_put_nothing_into_the_process(
    shop: Registry, store: PackageStore, tmp_path: Path
) -> None:
    """A .pth file runs at every start of an interpreter; PYTHONPATH comes before everything. Neither counts here."""
    owned = tmp_path / "owned"
    (tmp_path / "json.py").write_text(f"open({str(owned)!r}, 'w')")
    shop.wheel(
        "srv", "1.0", {"srv.py": PY, "x.pth": f"import os; open({str(owned)!r}, 'w')\n", "sitecustomize.py": "1/0"}
    )
    install(store, "uvx srv==1.0")
    plan = store.plan(asked(f"uvx srv==1.0 {tmp_path}/seen a b"), {})
    done = subprocess.run(
        plan.argv, env={**plan.env, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py")},
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == "started a b"
    assert not owned.exists()


@needs_npm
def test_package_files_of_this_disk(shop: Registry, store: PackageStore, tmp_path: Path) -> None:
    """What was built here and published nowhere; another content of the same file is another content."""
    from package_registry import tarball, wheel

    shop.npm(npm_files("dep", "1.0.0"))
    archive, built = tmp_path / "srv-1.0.0.tgz", tmp_path / "srv-1.0-py3-none-any.whl"
    archive.write_bytes(tarball(npm_files("@own/srv", "1.0.0", dependencies={"dep": "1.0.0"})))
    built.write_bytes(wheel("srv", "1.0"))
    for line in (f"npx -y {archive}", f"uvx --from {built} srv"):
        first = install(store, line)
        assert store.plan(asked(line), {}).digest == first.digest
    assert install(store, f"npx -y {archive}").names == ("@own/srv",)
    built.write_bytes(wheel("srv", "1.0", {"srv.py": PY + "# owned"}))
    line = f"uvx --from {built} srv"
    assert store.plan(asked(line), {}).digest == install(store, line).digest
    with pytest.raises(NotLaunchable, match="other content under an unchanged version: srv"):
        install(store, line, update=True)


def test_two_installations_at_once(shop: Registry, tmp_path: Path) -> None:
    shop.wheel("srv", "1.0")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(install(opened(tmp_path), "uvx srv==1.0").digest))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert not list((tmp_path / "packages" / "work").iterdir())
    opened(tmp_path).plan(asked("uvx srv==1.0"), {})


def test_an_installation_that_is_killed_leaves_nothing_that_counts(shop: Registry, tmp_path: Path) -> None:
    shop.wheel("srv", "1.0")
    shop.stuck.add("/files/")
    code = (
        "import sys;from pathlib import Path;sys.path[:0]=sys.argv[2:];import test_package_store as t;"
        "t.install(t.opened(Path(sys.argv[1])),'uvx srv==1.0')"
    )
    opened(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), *sys.path], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 30
        while not any("/files/" in path for path in shop.seen) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    store = opened(tmp_path)
    with pytest.raises(NotLaunchable, match="not installed"):
        store.plan(asked("uvx srv==1.0"), {})
    assert [path.split("/")[0] for path in store.collect([])] == ["work"]
    shop.stuck.clear()
    install(store, "uvx srv==1.0")
    store.plan(asked("uvx srv==1.0"), {})


def test_what_nobody_wants_any_more_is_deleted_and_the_rest_stays(
    shop: Registry, store: PackageStore, tmp_path: Path
) -> None:
    shop.wheel("old", "1.0")
    shop.wheel("new", "1.0")
    old, new = install(store, "uvx old==1.0"), install(store, "uvx new==1.0")
    wanted = [asked("uvx new==1.0")]
    assert len(store.collect(wanted, dry=True)) == 2
    assert tree(tmp_path, old).is_dir()
    store.collect(wanted)
    assert not tree(tmp_path, old).exists()
    assert store.plan(asked("uvx new==1.0"), {}).digest == new.digest
    assert store.collect(wanted) == []
