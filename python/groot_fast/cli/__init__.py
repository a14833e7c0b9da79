"""The command line: argv to a request, results to stdout. Nothing else in the package prints.

main.py dispatch and error output, flags.py Go's flag syntax, commands.py one function a command, help.py the texts,
shell.py completion files and the manual page.
"""
