"""`python -m vchat.train`, the form that `deepspeed --module` and `torchrun -m` launch."""

import os

from vchat.train.commands.main import main
from vchat.train.engine.processes import end_with_launcher

if "LOCAL_RANK" in os.environ:
    end_with_launcher()
main()
