"""`grootfs serve`: commands for many callers, run by processes that are up already (docs/server.md).

daemon.py    the server's life: socket, workers, HTTP, graceful stop
listener.py  the socket: taken over from the dead, never from the living, or handed over by systemd
zygote.py    a process with everything imported, which forks workers
worker.py    one command at a time, in the caller's streams, directory and environment
messages.py  what goes between server and worker
pool.py      workers, turns, and bounds
world.py     the namespaces a call may come from
front.py     calls of the native front
api.py       HTTP handlers; openapi.json describes them
metrics.py   counts for Prometheus
"""
