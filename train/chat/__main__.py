"""`python -m vchat.train.chat`: the command `vchat-chat`."""

from vchat.train.chat.cli import main

main()
