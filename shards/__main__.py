"""`python -m vchat.shards`: the command `vchat-shards`."""

from vchat.shards.commands.main import main

main()
