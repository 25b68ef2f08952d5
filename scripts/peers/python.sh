# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# Python's socketserver.ForkingTCPServer: a fork for each connection.
name="Python Forking" needs=python3 class=process
config="socketserver.ForkingTCPServer, recv and sendall of 64 KiB, request_queue_size 4096, max_children 1000"

serve() {
    exec python3 -I - "$1" <<'PYTHON'
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 4096
    max_children = 1000

Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever(poll_interval=60)
PYTHON
}
