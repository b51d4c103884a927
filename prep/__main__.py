"""`python -m vchat.prep`: the command `vchat-prep`."""

from vchat.prep.commands.main import main

main()
