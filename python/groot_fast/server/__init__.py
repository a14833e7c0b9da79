"""`grootfs serve`: the operations for many callers, over HTTP on a UNIX socket (docs/server.md).

daemon.py      the server's life: socket, HTTP, graceful stop
listener.py    the socket: taken over from the dead, never from the living, or handed over by systemd
api.py         HTTP handlers; openapi.json describes them
schema.py      requests held against openapi.json
operations.py  operations in threads, turns, and bounds
places.py      a bounded number of places, first come first served
metrics.py     counts for Prometheus
"""
