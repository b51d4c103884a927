"""A run that cannot start says so before the libraries of models are imported."""

import subprocess
import sys

LIBRARIES = ("torch", "deepspeed", "transformers", "pyarrow")


def test_importing_the_launch_imports_no_large_library():
    code = (
        f"import sys, vchat.train.run.launch; print([m for m in {LIBRARIES} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
