"""`python -m bessemer`: the command, where its script is not on the path."""

from bessemer.cli.main import main

main()
