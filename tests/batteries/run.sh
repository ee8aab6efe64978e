#!/usr/bin/env bash
# Runs robustness batteries that live beside the repository (directory given) against the gateway. Status 0: all OK.
set -euo pipefail
batteries=$(cd "$1" && pwd); root=$(cd "$(dirname "$0")/../.." && pwd)
python="$root/.venv/bin/python"; work=$(mktemp -d); pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
export PYTHONPATH="$root/src"
read -r upstream port < <("$python" - <<'PY'
import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])
PY
)
"$python" "$batteries/recorder.py" "$upstream" "$work/recorded.jsonl" & pids+=($!)
cat > "$work/limen.yaml" <<YAML
version: 1
listen: {url: "http://127.0.0.1:$port"}
identity: {unsafe_anonymous: true}
limits: {rate: 1000, burst: 2000}
mcpServers: {recorder: {url: "http://127.0.0.1:$upstream/mcp"}}
policy: {rules: [{allow: anyone, call: "recorder/*"}, {deny: anyone, call: recorder/danger}]}
YAML
chmod 600 "$work/limen.yaml"
sleep 0.5
"$python" -m limen -c "$work/limen.yaml" serve 2> "$work/gateway.log" & gateway=$!; pids+=("$gateway")
for _ in $(seq 100); do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
"$python" -m limen -c "$work/limen.yaml" tools approve recorder --all --reason battery > /dev/null
sleep 1
for era in legacy modern; do
  "$python" "$batteries/badinput.py" "http://127.0.0.1:$port/mcp/recorder" --era "$era" --quick --pid "$gateway" \
    --upstream-log "$work/recorded.jsonl" > "$work/$era.txt" || { grep '<<<' "$work/$era.txt" || tail -5 "$work/$era.txt"; exit 1; }
  echo "bad input, $era: $(tail -1 "$work/$era.txt")"
done
mkdir "$work/evil"; cp "$batteries"/*.py "$root/tests/batteries/adapter.py" "$work/evil/"
sed -i 's/^import httpx$/import httpx2 as httpx/' "$work/evil/mcpclient.py"
modes=${EVIL_MODES:-normal,junk,dup_response,batch,long_line,endless_line,deep_result,dup_keys,surrogates,ansi,bad_content,content_items,structured_split,error_poison,result_and_error,exit,cursor_loop,many_tools,huge_desc,dup_names,weird_names,bad_types,ref_ssrf,schema_redos,schema_deep,ansi_meta,x_mcp_header,init_error,init_instructions,list_changed_storm,progress_storm,ping_storm,log_poison,sampling,elicit_secret,elicit_url,roots,unknown_request,stderr_flood,env_leak,fd_leak,fork_linger}
(cd "$work/evil" && "$python" evil_run.py --adapter adapter.py --limit 20 --only "$modes") > "$work/evil.txt" || { grep -v ' OK$' "$work/evil.txt"; exit 1; }
echo "misbehaving servers: $(tail -1 "$work/evil.txt")"
