"""Helpers of the tests that run the built command against real BTRFS stores.

command.py runs the command, mounts.py makes and takes away loop-mounted file systems, archive.py writes layers byte by
byte, layout.py puts them into OCI layouts, tree.py photographs directory trees, model.py says what a stack of layers
means, stacks.py makes random ones, attack.py applies hostile layers and looks at what happened.
"""
