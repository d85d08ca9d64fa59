"""A local server that judges as it is told."""

import contextlib
import http.server
import json
import threading
import time


class SaidError(Exception):
  """What a script raises to answer with something else than a verdict."""

  def __init__(self, status=200, body=b"", wait=0.0, headers=()):
    super().__init__(status)
    self.status, self.body, self.wait = status, body, wait
    self.headers = dict(headers)


def chat(content):
  """The body of an answer with some content."""
  return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def longer(n, shown):
  """Prefers the longer answer; or a point for each character."""
  del n
  if "answer" in shown:
    return json.dumps({"reason": "size", "score": len(shown["answer"])})
  a, b = len(shown["answer_A"]), len(shown["answer_B"])
  better = "A" if a > b else "B" if a < b else "tie"
  return json.dumps({"reason": "it is longer", "better": better})


class Server:
  """Runs `script(number of the request, what is shown)` for each request.

  Attributes:
    requests: (headers, payload) of each.
    most: requests that were in work at the same time.
  """

  def __init__(self, script):
    self.script, self.requests = script, []
    self.most = self._now = 0
    self._lock = threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        size = int(self.headers["Content-Length"])
        payload = json.loads(self.rfile.read(size))
        with outer._lock:
          n = len(outer.requests)
          outer.requests.append((self.path, dict(self.headers), payload))
          outer._now += 1
          outer.most = max(outer.most, outer._now)
        try:
          shown = json.loads(payload["messages"][1]["content"])
          said = SaidError(body=chat(outer.script(n, shown)))
        except SaidError as e:
          said = e
        time.sleep(said.wait)
        with outer._lock:
          outer._now -= 1
        with contextlib.suppress(OSError):  # the client has gone
          self.send_response(said.status)
          for name, value in said.headers.items():
            self.send_header(name, value)
          self.send_header("Content-Length", str(len(said.body)))
          self.end_headers()
          self.wfile.write(said.body)

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self._server.block_on_close = False
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

  def __enter__(self):
    args = {"poll_interval": 0.01}
    threading.Thread(
      target=self._server.serve_forever, kwargs=args, daemon=True
    ).start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()
