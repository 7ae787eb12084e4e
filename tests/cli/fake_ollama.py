"""Stands in for `ollama serve` where only the command line is tested: it answers the health checks."""

import http.server
import os
import sys
import time

if "--version" in sys.argv:
    print("ollama version is 0.24.0")
    sys.exit(0)
time.sleep(float(os.environ.get("FAKE_DELAY", "0")))


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"version":"0.24.0"}' if self.path == "/api/version" else b'{"models":[]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
print(time.strftime("time=%Y-%m-%dT%H:%M:%S.999Z level=INFO msg=hello", time.gmtime()), flush=True)
print("hostile \x1b[31mred\x1b[0m \x9b2J \u202e \rback", flush=True)
http.server.HTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer((host, int(port)), Answers).serve_forever()
