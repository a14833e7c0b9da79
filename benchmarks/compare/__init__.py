"""Whole processes beside what people would use instead.

process.py runs and weighs commands, programs.py compiles what is in C, filesystem.py makes fresh BTRFS and counts what reaches
the device, images.py reads OCI layouts, registry.py serves them, peers.py and floors.py are who takes part, works.py is what they
have to do, figures.py does the arithmetic, report.py and plots.py write it down, machine.py says where it was.
"""
