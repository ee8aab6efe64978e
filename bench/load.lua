-- wrk: tools/call(echo) with distinct ids and tokens. env: MCP_PATH, TOKENS (file), SIZE (bytes of text), SESSION
local path, size = os.getenv("MCP_PATH"), tonumber(os.getenv("SIZE"))
local session, tokens, requests, at = os.getenv("SESSION") or "", {}, {}, 0
for line in io.lines(os.getenv("TOKENS")) do tokens[#tokens + 1] = line end
local text = string.sub(string.rep("the quarterly report for the team is due on friday ", math.ceil(size / 50)), 1, size)
function init()
  for i = 1, 1024 do
    local headers = {
      ["Content-Type"] = "application/json", ["Accept"] = "application/json, text/event-stream",
      ["Authorization"] = "Bearer " .. tokens[(i - 1) % #tokens + 1],
      ["MCP-Protocol-Version"] = "2026-07-28", ["Mcp-Method"] = "tools/call", ["Mcp-Name"] = "echo",
    }
    requests[i] = wrk.format("POST", path, headers, string.format(
      '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":"%s"},"_meta":{' ..
      '"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}', i, text))
  end
end
function request() at = at % #requests + 1; return requests[at] end
function done(summary, latency)
  io.write(string.format('@@{"requests":%d,"microseconds":%d,"p50":%.1f,"p99":%.1f,"failed":%d}\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.connect + summary.errors.timeout))
end
