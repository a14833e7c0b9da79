"""Looking after a store: what is done to it as a whole, and by commands that nobody waits for.

setup.py init-store and delete-store, check.py what is wrong, content.py what is wrong inside volumes, repair.py what can be put
right, report.py who uses the disk, migrate.py simple quotas for a store that has others, doctor.py what keeps a machine, a user
or a store from working, sysfs.py what the kernel shows of a file system.

Files of a store are reached through the core's `Store` alone, which holds the store by a descriptor: a path that is put together
here would be resolved again, and the store's owner can change where it leads.
"""
