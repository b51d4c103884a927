"""Environments of peers for `bench/loader.py` and `bench/prep.py`, made where they are wanted.

Each is a virtual environment of its own that sees this project's packages behind its own ones, so
that torch is not installed again and no version of the project changes.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "litdata": ["litdata==0.2.76"],
    "energon": ["megatron-energon==7.4.1"],
    "mosaicml": ["mosaicml-streaming==0.13.0", "numpy<2.2", "transformers<5"],
    "photographs": ["scikit-image==0.26.0", "scikit-learn==1.9.1"],
}
"""Pinned to the versions whose figures are known; `photographs` is no peer but has sample ones."""


def python_of(peer: str, *, folder: Path) -> str:
    """Return the interpreter that has a peer; its environment is made if it is not in the folder.

    A peer without an entry in `PACKAGES` is one of the project's own dependencies.
    """
    if peer not in PACKAGES:
        return sys.executable
    home = folder / peer
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        behind = [path for path in sys.path if path.endswith("site-packages")]
        behind.append(str(Path(__file__).resolve().parents[1] / "src"))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = home / "lib" / version / "site-packages"
        (site / "zz_project.pth").write_text("\n".join(behind) + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
        subprocess.run(command, check=True)
        (home / "ready").touch()
    return str(python)
