"""What the official suite starts: `python account_command.py SOCKET URL`. The work is done by account_client.py."""

import json
import os
import socket
import sys

context = os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")
asked = json.dumps([sys.argv[-1], os.environ.get("MCP_CONFORMANCE_SCENARIO", ""), context])
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    socket.send_fds(client, [asked.encode()], [1, 2])
    sys.exit(int(client.recv(16) or b"1"))
