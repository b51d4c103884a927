"""`python -m vchat.train`, the form that `deepspeed --module` and `torchrun -m` launch."""

from vchat.train.cli import main

main()
