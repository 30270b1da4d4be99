"""A small web app to push: it says who and which instance it is."""
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = json.loads(os.environ.get("VCAP_APPLICATION", "{}")).get("application_name", "hello-python")
INDEX = os.environ.get("CF_INSTANCE_INDEX", "0")


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("asked to crash", file=sys.stderr, flush=True)
            os._exit(1)
        body = f"Hello from {NAME}, instance {INDEX}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *args):
        print(form % args, flush=True)


server = ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Hello)
# shutdown waits for the loop that the signal interrupts, so it runs beside it
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"{NAME}, instance {INDEX}, listens on {server.server_port}", flush=True)
server.serve_forever()
print("stopped", flush=True)
