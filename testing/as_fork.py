"""Instead of an interpreter: `python as_fork.py SOCKET … CODE` has a fork of `testing.collected` run the code, with the
standard streams of this process, which then ends."""

import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as request:
    request.connect(sys.argv[1])
    socket.send_fds(request, [sys.argv[-1].encode()], [0, 1, 2])
    request.recv(1)  # it ends when the fork has the streams
