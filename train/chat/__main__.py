"""`python -m vchat.train.chat`: the command `vchat-chat`."""

from vchat.train.chat.commands.main import main

main()
