"""What Limen costs beside a direct call and an nginx pass-through, in one run on one machine. Read ratios only.

Needs wrk, nginx and cc. Systems run pinned to one core, load and server on the other, rounds interleaved; a system that
does not forward is caught by the server's own count. `--write README.md` puts the table between its bench marks.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

HERE = Path(__file__).resolve().parent
LAST = str(os.cpu_count() - 1)
NGINX = """
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.err warn;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 10000000; client_body_temp_path {work}/b; proxy_temp_path {work}/p;
  fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; client_body_buffer_size 256k;
  upstream up {{ server 127.0.0.1:{up}; keepalive 256; keepalive_requests 10000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection ""; }} }} }}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(argv, core, log):
    with open(log, "wb") as sink:
        return subprocess.Popen(["taskset", "-c", core, *argv], stdout=sink, stderr=sink)


def wait_for(port):
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on {port}")


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def calls(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/calls") as answer:
        return int(answer.read())


def make_limen(work, port, upstream, durable):
    """The gateway with everything on; returns its process and a file of tokens."""
    resource = f"http://127.0.0.1:{port}/mcp/bench"
    key = RSAKey.generate_key(2048, {"kid": "bench", "alg": "RS256", "use": "sig"})
    now = int(time.time())
    claims = {"iss": "https://idp.example", "aud": resource, "iat": now, "exp": now + 3600, "scope": "bench.call"}
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "bench"}
    tokens = [jwt.encode(header, {**claims, "sub": f"agent-{i}", "client_id": "bench"}, key) for i in range(64)]
    (work / f"tokens-{port}").write_text("\n".join(tokens) + "\n")
    config = {
        "version": 1,
        "listen": {"url": f"http://127.0.0.1:{port}"},
        "limits": {"rate": 1_000_000, "burst": 1_000_000},
        "identity": {
            "issuers": [{"issuer": "https://idp.example", "jwks": json.dumps({"keys": [key.as_dict(private=False)]})}]
        },
        "mcpServers": {"bench": {"url": f"http://127.0.0.1:{upstream}/mcp"}},
        "policy": {"rules": [{"allow": "anyone", "call": "bench/echo", "scopes": ["bench.call"]}]},
        "audit": {"durable": durable, "path": f"audit-{port}", "key": f"audit-{port}.key"},
        "storage": {"path": f"limen-{port}.db"},
    }
    path = work / f"limen-{port}.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    limen = [sys.executable, "-m", "limen", "-c", str(path)]
    process = start([*limen, "serve"], LAST, work / f"limen-{port}.log")
    wait_for(port)
    subprocess.run(
        [*limen, "tools", "approve", "bench", "--all", "--reason", "bench"], check=True, stdout=subprocess.DEVNULL
    )
    time.sleep(1.5)
    return process


def measure(port, path, tokens, connections, seconds, size):
    environment = {**os.environ, "MCP_PATH": path, "TOKENS": str(tokens), "SIZE": str(size)}
    argv = [
        "taskset",
        "-c",
        "0",
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "-s",
        str(HERE / "load.lua"),
    ]
    out = subprocess.run(
        [*argv, f"http://127.0.0.1:{port}"], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(next(line for line in out.stdout.splitlines() if line.startswith("@@"))[2:])


def run(options, work):
    subprocess.run(["cc", "-O2", "-o", str(work / "upstream"), str(HERE / "upstream.c")], check=True)
    upstream, proxy, gateway, durable = (free_port() for _ in range(4))
    processes = [start([str(work / "upstream"), str(upstream)], "0", work / "upstream.log")]
    samples = {}
    try:
        wait_for(upstream)
        (work / "nginx.conf").write_text(NGINX.format(work=work, port=proxy, up=upstream))
        processes.append(start([shutil.which("nginx"), "-c", str(work / "nginx.conf")], LAST, work / "nginx.log"))
        wait_for(proxy)
        systems = {"direct": (upstream, "/mcp", None), "nginx": (proxy, "/mcp", processes[1])}
        for name, port, on in (("limen", gateway, False), ("limen, durable", durable, True)):
            process = make_limen(work, port, upstream, on)
            processes.append(process)
            systems[name] = (port, "/mcp/bench", process)
        cases = [(connections, options.size) for connections in (1, 16, 64)] + [(16, 10_000)]
        for turn in range(options.rounds):
            for connections, size in cases:
                for name, (port, path, process) in systems.items():
                    tokens = work / f"tokens-{port if 'limen' in name else gateway}"
                    pids = pids_of(process) if process else []
                    before, forwarded = sum(map(cpu_seconds, pids)), calls(upstream)
                    one = measure(port, path, tokens, connections, options.seconds, size)
                    one["cpu"] = (sum(map(cpu_seconds, pids)) - before) / max(1, one["requests"]) * 1e6
                    if one["failed"] or calls(upstream) - forwarded < one["requests"]:
                        sys.exit(f"{name}: {one['failed']} failed, or calls were not forwarded")
                    samples.setdefault((connections, size, name), []).append(one)
            print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr)
        memory = memory_mb(processes[2].pid)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)
    return samples, memory


def pids_of(process):
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [process.pid, *map(int, children)]


def table(samples, memory):
    def middle(case, name, field):
        rows = samples[(*case, name)]
        if field == "rps":
            return statistics.median(row["requests"] / row["microseconds"] * 1e6 for row in rows)
        return statistics.median(row[field] for row in rows)

    lines = [
        "| connections, arguments | system | calls/s ÷ nginx | CPU per call ÷ nginx | added p50 ÷ nginx |",
        "|---|---|---:|---:|---:|",
    ]
    for case in dict.fromkeys((connections, size) for connections, size, _ in samples):
        added = middle(case, "nginx", "p50") - middle(case, "direct", "p50")
        for name in ("limen", "limen, durable"):
            more = middle(case, name, "p50") - middle(case, "direct", "p50")
            lines.append(
                f"| {case[0]}, {case[1]} B | {name} | {middle(case, name, 'rps') / middle(case, 'nginx', 'rps'):.2f} "
                f"| {middle(case, name, 'cpu') / middle(case, 'nginx', 'cpu'):.1f} | {more / added:.1f} |"
            )
    return "\n".join(lines) + f"\n\nMemory of one gateway process (PSS): {memory:.0f} MB."


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--size", type=int, default=300, help="bytes of the argument")
    options.add_argument("--write", type=Path, help="a file whose bench marks get the table")
    options = options.parse_args()
    for program in ("wrk", "nginx", "cc", "taskset"):
        if shutil.which(program) is None:
            sys.exit(f"the benchmark needs {program}")
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as work:
        text = table(*run(options, Path(work)))
    print(text)
    if options.write:
        before, mark, rest = options.write.read_text().partition("<!-- bench: begin -->")
        _, end, after = rest.partition("<!-- bench: end -->")
        if not mark or not end:
            sys.exit(f"{options.write} has no bench marks")
        options.write.write_text(f"{before}{mark}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
