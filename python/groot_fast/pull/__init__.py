"""From an `Image` to its volumes.

builder.py which volumes are missing, and building them in order; blobs.py where the bytes of a layer come from;
downloads.py the network side: all missing layers at once, each into a file that the unpacker follows.
"""
