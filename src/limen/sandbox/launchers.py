"""Reads the command lines of launchers that fetch what they run: npx, uvx, pipx, and container engines.

Every option that is understood is in a table; any other one is refused, because an option guessed wrongly is a program
nobody looked at. Options that change where packages come from are never understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from limen.sandbox.packages import NotLaunchable, Package, check_spec

# option -> what it does: "" nothing here, "spec"/"with" takes a package, "pass" takes a value we check further down
_NPX: Final = {"-y": "", "--yes": "", "-q": "", "--quiet": "", "-p": "spec", "--package": "spec"}
_UVX: Final = {
    "-q": "", "--quiet": "", "--isolated": "", "--no-progress": "", "--no-config": "", "--no-env-file": "",
    "--from": "spec", "--with": "with", "-w": "with", "--python": "python", "-p": "python",
}  # fmt: skip
_PIPX: Final = {"-q": "", "--quiet": "", "--no-cache": "", "--spec": "spec", "--python": "python"}
_COMMAND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME_AT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9._, -]+\])?@([0-9A-Za-z.+!_-]+)")
_IMAGE: Final = re.compile(
    r"(?P<name>[a-z0-9]+(?:[._:/-]+[a-zA-Z0-9]+)*)(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?@sha256:(?P<digest>[0-9a-f]{64})"
)
_FLAGS: Final = frozenset({"-i", "--interactive", "--rm", "--init", "--read-only", "-q", "--quiet", "--no-healthcheck"})
_VALUES: Final = frozenset(
    {
        "-e", "--env", "-v", "--volume", "--mount", "--network", "--net", "--name", "-w", "--workdir", "-u", "--user",
        "--cap-drop", "--security-opt", "-m", "--memory", "--memory-swap", "--cpus", "--pids-limit", "--tmpfs",
        "--entrypoint", "--pull", "--platform", "--ulimit", "--shm-size", "--label", "-l", "--hostname", "-h",
        "--stop-timeout",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """A container image by digest. `arguments`: of the engine, with pulling forbidden, where it is started as written.

    `name`: NAME@sha256:HEX. `argv`: what is started in it; an empty first word is what the image itself starts.
    """

    engine: str
    digest: str
    arguments: tuple[str, ...]
    name: str = ""
    argv: tuple[str, ...] = ("",)


def npx(args: Sequence[str]) -> Package:
    """`npx [-y] [-p SPEC]... [--] SPEC|COMMAND [ARGS]` (npm 11, npm-exec). Raises NotLaunchable."""
    specs, _, rest = _options("npx", args, _NPX)
    if not rest:
        raise NotLaunchable("npx: names no package")
    first, arguments = rest[0], tuple(rest[1:])
    if specs:
        return Package("npm", _checked("npm", specs), _command("npx", first), rest=arguments)
    return Package("npm", _checked("npm", [first]), rest=arguments)


def npm(args: Sequence[str]) -> Package:
    """`npm exec ...` and its other names. Raises NotLaunchable."""
    if not args or args[0] not in ("exec", "x"):
        raise NotLaunchable("npm: only `npm exec` can be started")
    return npx(args[1:])


def uvx(args: Sequence[str], launcher: str = "uvx") -> Package:
    """`uvx [--from SPEC] [--with SPEC]... COMMAND[@VERSION] [ARGS]`. Raises NotLaunchable."""
    specs, extra, rest = _options(launcher, args, _UVX)
    return _python(launcher, specs, extra, rest)


def uv(args: Sequence[str]) -> Package:
    """`uv tool run ...`. Raises NotLaunchable."""
    if list(args[:2]) != ["tool", "run"]:
        raise NotLaunchable("uv: only `uv tool run` can be started; `uv run` builds an environment at every start")
    return uvx(args[2:], "uv tool run")


def pipx(args: Sequence[str]) -> Package:
    """`pipx run [--spec SPEC] COMMAND[==VERSION] [ARGS]`. Raises NotLaunchable."""
    if not args or args[0] != "run":
        raise NotLaunchable("pipx: only `pipx run` can be started")
    specs, extra, rest = _options("pipx run", args[1:], _PIPX)
    return _python("pipx run", specs, extra, rest)


def _python(launcher: str, specs: Sequence[str], extra: Sequence[str], rest: Sequence[str]) -> Package:
    if not rest:
        raise NotLaunchable(f"{launcher}: names no command")
    first, arguments = rest[0], tuple(rest[1:])
    if len(specs) > 1:
        raise NotLaunchable(f"{launcher}: more than one package the command could be of")
    if specs:
        return Package(
            "python", _checked("python", [_at(specs[0]), *map(_at, extra)]), _command(launcher, first), rest=arguments
        )
    spec = _at(first)
    name = re.split(r"[\[=<>~! ]", spec, maxsplit=1)[0]
    return Package("python", _checked("python", [spec, *map(_at, extra)]), _command(launcher, name), rest=arguments)


def _at(spec: str) -> str:
    """uv's `name@version` as pip writes it; `@latest` is no version."""
    found = _NAME_AT.fullmatch(spec)
    if found is None:
        return spec
    name = found[1] + (found[2] or "")
    return name if found[3] == "latest" else f"{name}=={found[3]}"


def _checked(ecosystem: str, specs: Sequence[str]) -> tuple[str, ...]:
    return tuple(check_spec("npm" if ecosystem == "npm" else "python", spec) for spec in specs)


def _command(launcher: str, text: str) -> str:
    if not _COMMAND.fullmatch(text):
        raise NotLaunchable(f"{launcher}: the command is not the plain name of an executable of the package")
    return text


def _options(
    launcher: str, args: Sequence[str], known: Mapping[str, str]
) -> tuple[list[str], list[str], Sequence[str]]:
    """Packages, further packages, and what begins with the first word that is no option."""
    specs: list[str] = []
    extra: list[str] = []
    at = 0
    while at < len(args) and args[at].startswith("-"):
        if args[at] == "--":
            at += 1
            break
        name, joined, value = args[at].partition("=")
        at += 1
        if name not in known:
            raise NotLaunchable(f"{launcher}: the option {_shown(name)} is not supported, so nothing is started")
        use = known[name]
        if use and not joined:
            if at == len(args):
                raise NotLaunchable(f"{launcher}: the option {name} lacks its value")
            value = args[at]
            at += 1
        elif not use and joined:
            raise NotLaunchable(f"{launcher}: the option {name} takes no value")
        if use == "python":
            raise NotLaunchable(
                f"{launcher}: packages run on the interpreter they were installed for; leave {name} out"
            )
        {"spec": specs, "with": extra, "": []}[use].append(value)
    return specs, extra, args[at:]


def _shown(name: str) -> str:
    """Of an option we do not know even the name may hold what is secret (-pPASSWORD)."""
    return name if re.fullmatch(r"--[a-z][a-z-]{0,40}", name) else name[:2]


def image(engine: str, args: Sequence[str]) -> Image:
    """`docker run [OPTIONS] NAME@sha256:... [ARGS]`, podman the same. Raises NotLaunchable."""
    return _image(engine, args)[0]


def contained(command: str, args: Sequence[str], name: str | None) -> Image:
    """What an isolator of ours starts in a container: `command` in the image `name`, or a command line of an engine
    that leaves every decision to us. Raises NotLaunchable."""
    engine = command.rsplit("/", 1)[-1]
    if engine not in ("docker", "podman"):
        if name is None:
            raise NotLaunchable("isolate: podman needs security.image (NAME@sha256:...), in which the command is")
        return _of_name("security.image", name, (command, *args))
    if name is not None:
        raise NotLaunchable(f"{engine} run names its own image; leave security.image out, or name the program itself")
    form, options = _image(engine, args)
    for option, value in options:
        if option not in ("-e", "--env") or "=" in value:
            raise NotLaunchable(
                f"{engine} run: with isolate: podman the option {_shown(option)} is Limen's to set: say it by "
                "env, cwd, security.directories or security.limits"
            )
    return form


def _of_name(where: str, text: str, argv: tuple[str, ...], engine: str = "podman") -> Image:
    found = _IMAGE.fullmatch(text)
    if found is None:
        raise NotLaunchable(f"{where}: the image is not named by its digest: write NAME@sha256:...")
    above, slash, last = found["name"].rpartition("/")
    name = f"{above}{slash}{last.partition(':')[0]}"  # engines do not take a tag beside a digest
    return Image(engine, f"sha256-{found['digest']}", (), f"{name}@sha256:{found['digest']}", argv)


def _image(engine: str, args: Sequence[str]) -> tuple[Image, list[tuple[str, str]]]:
    """With the options that have a value."""
    if not args or args[0] != "run":
        raise NotLaunchable(f"{engine}: only `{engine} run` can be started")
    at = 1
    options: list[tuple[str, str]] = []
    while at < len(args) and args[at].startswith("-"):
        name, joined, value = args[at].partition("=")
        at += 1
        if name in _FLAGS or (re.fullmatch(r"-[iq]+", name) and not joined):
            continue
        if name not in _VALUES:
            raise NotLaunchable(f"{engine} run: the option {_shown(name)} is not supported, so nothing is started")
        if not joined:
            if at == len(args):
                raise NotLaunchable(f"{engine} run: the option {name} lacks its value")
            value = args[at]
            at += 1
        _harmless(engine, name, value)
        options.append((name, value))
    if at == len(args):
        raise NotLaunchable(f"{engine} run: names no image")
    form = _of_name(f"{engine} run", args[at], ("", *args[at + 1 :]), engine)
    return replace(form, arguments=("run", "--pull=never", *args[1:])), options


def _harmless(engine: str, name: str, value: str) -> None:
    """Values that would take the container's walls away."""
    if name == "--pull" and value != "never":
        raise NotLaunchable(f"{engine} run: an image that is verified is not pulled at every start; leave --pull out")
    if name in ("--network", "--net") and value.partition(":")[0] in ("host", "container", "ns"):
        raise NotLaunchable(f"{engine} run: it would share a network with something else")
    if name == "--security-opt" and ("unconfined" in value or value.replace("=", ":") == "label:disable"):
        raise NotLaunchable(f"{engine} run: it would run unconfined")
    if name in ("-v", "--volume", "--mount"):
        source = re.search(r"(?:^|,)(?:source|src)=([^,]*)", value)
        path = (source[1] if source else "") if name == "--mount" else value.split(":", 1)[0]
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.endswith(".sock") or ".." in parts or (path.startswith("/") and not parts):
            raise NotLaunchable(f"{engine} run: it would be given the engine itself, or the whole disk")


def _docker(args: Sequence[str]) -> Image:
    return image("docker", args)


def _podman(args: Sequence[str]) -> Image:
    return image("podman", args)


LAUNCHERS: Final[Mapping[str, Callable[[Sequence[str]], Package | Image]]] = {
    "npx": npx, "npm": npm, "uvx": uvx, "uv": uv, "pipx": pipx, "docker": _docker, "podman": _podman,
}  # fmt: skip
