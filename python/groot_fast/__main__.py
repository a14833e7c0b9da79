"""``python -m groot_fast``: the Python program, which the installed `grootfs` becomes for every command it does not do itself."""

from groot_fast.cli.main import run

run()
