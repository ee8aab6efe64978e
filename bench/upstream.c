/* A fast MCP server for measuring what stands in front of it: one thread, epoll, keep-alive, JSON answers, no parsing
 * beyond what an answer needs. Echoes params.arguments.text of every tools/call with the id of the request.
 * Loopback only.   cc -O2 -o upstream upstream.c && ./upstream PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 4096, ROOM = 1 << 20 };
struct connection { char *in; size_t filled; };
static struct connection table[CONNECTIONS];
static unsigned long calls;
static char answer[ROOM + 4096];

/* Start and length of the JSON value that follows "name": in text; strings and scalars only. */
static const char *member(const char *text, const char *name, size_t *length) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", name);
  const char *at = strstr(text, quoted);
  if (!at) return NULL;
  at += strlen(quoted);
  while (*at == ' ' || *at == ':') at++;
  const char *end = at;
  if (*end == '"') {
    for (end++; *end && *end != '"'; end++) if (*end == '\\' && end[1]) end++;
    end++;
  } else while (*end && *end != ',' && *end != '}' && *end != ' ') end++;
  *length = (size_t)(end - at);
  return at;
}

static size_t reply(const char *request, const char *body) {
  static char json[ROOM + 2048];
  size_t idn = 0, textn = 0, n;
  const char *id = member(body, "id", &idn);
  int modern = strstr(body, "io.modelcontextprotocol/protocolVersion") != NULL;
  if (!strncmp(request, "GET /calls", 10)) n = (size_t)sprintf(json, "%lu", calls);
  else if (!id) return (size_t)sprintf(answer, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
  else {
    const char *done = modern ? ",\"resultType\":\"complete\"" : "";
    n = (size_t)sprintf(json, "{\"jsonrpc\":\"2.0\",\"id\":%.*s,\"result\":{", (int)idn, id);
    if (strstr(body, "\"tools/call\"")) {
      const char *text = member(body, "text", &textn);
      calls++;
      n += (size_t)sprintf(json + n, "\"content\":[{\"type\":\"text\",\"text\":%.*s}]%s", text ? (int)textn : 2, text ? text : "\"\"", done);
    } else if (strstr(body, "\"tools/list\""))
      n += (size_t)sprintf(json + n, "\"tools\":[{\"name\":\"echo\",\"description\":\"Echo a text.\",\"inputSchema\":{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}}]%s", done);
    else if (strstr(body, "\"server/discover\""))
      n += (size_t)sprintf(json + n, "\"supportedVersions\":[\"2026-07-28\",\"2025-11-25\"],\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"},\"ttlMs\":0,\"cacheScope\":\"private\"%s", done);
    else if (strstr(body, "\"initialize\""))
      n += (size_t)sprintf(json + n, "\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"bench\",\"version\":\"1\"}");
    n += (size_t)sprintf(json + n, "}}");
  }
  size_t head = (size_t)sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", n);
  memcpy(answer + head, json, n);
  return head + n;
}

static void drop(int fd) { close(fd); table[fd].filled = 0; }

static void serve(int fd) {
  struct connection *c = &table[fd];
  if (!c->in) c->in = malloc(ROOM + 1);
  ssize_t got = read(fd, c->in + c->filled, ROOM - c->filled);
  if (got <= 0) { if (got == 0 || errno != EAGAIN) drop(fd); return; }
  c->filled += (size_t)got;
  for (;;) {
    c->in[c->filled] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) break;
    char *field = strcasestr(c->in, "content-length:");
    size_t body = field && field < end ? strtoul(field + 15, NULL, 10) : 0, whole = (size_t)(end + 4 - c->in) + body;
    if (whole > ROOM) { drop(fd); return; }
    if (c->filled < whole) break;
    char kept = c->in[whole];
    c->in[whole] = 0;
    size_t n = reply(c->in, end + 4), sent = 0;
    c->in[whole] = kept;
    while (sent < n) {
      ssize_t wrote = send(fd, answer + sent, n - sent, MSG_NOSIGNAL);
      if (wrote > 0) sent += (size_t)wrote;
      else if (errno != EAGAIN) { drop(fd); return; }
    }
    memmove(c->in, c->in + whole, c->filled - whole);
    c->filled -= whole;
  }
}

int main(int argc, char **argv) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "9001"))};
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 1024)) { perror("listen"); return 1; }
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[256];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(poll, ready, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = ready[i].data.fd;
      if (fd != listener) { serve(fd); continue; }
      int made = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
      if (made < 0) continue;
      if (made >= CONNECTIONS) { close(made); continue; }
      setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      struct epoll_event add = {.events = EPOLLIN, .data.fd = made};
      epoll_ctl(poll, EPOLL_CTL_ADD, made, &add);
    }
  }
}
