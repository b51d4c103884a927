"""`python -m vchat.train`, the form that `deepspeed --module` and `torchrun -m` launch."""

import os

from vchat.train.cli import main
from vchat.train.processes import end_with_launcher

if "LOCAL_RANK" in os.environ:
    end_with_launcher()
main()
