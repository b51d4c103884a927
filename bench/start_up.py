"""How long `--help` of every command takes, against starting Python alone.

Prints, per command, the median of seven interleaved runs and its ratio to `python -c ""`.
Limit: 0.5 s each.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 7
BIN = Path(sys.executable).parent


def commands() -> list[list[str]]:
    """Return every command and subcommand as it is typed, read from the help texts themselves."""
    found: list[list[str]] = []
    for name in ("vchat-prep", "vchat-shards", "vchat-train", "vchat-chat"):
        text = subprocess.run([BIN / name, "--help"], capture_output=True, text=True).stdout
        found.append([name])
        _, _, listing = text.partition("Commands:")
        found += [[name, line.split()[0]] for line in listing.splitlines() if line[2:3].strip()]
    return found


def seconds(arguments: list[str]) -> float:
    """Return how long one run takes."""
    started = time.perf_counter()
    subprocess.run(arguments, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Time all commands, interleaved with the bare interpreter."""
    bare = [sys.executable, "-c", ""]
    typed = commands()
    times: dict[str, list[float]] = {" ".join(command): [] for command in typed}
    floor = []
    for _ in range(RUNS):
        floor.append(seconds(bare))
        for command in typed:
            argv = [str(BIN / command[0]), *command[1:], "--help"]
            times[" ".join(command)].append(seconds(argv))
    limit = statistics.median(floor)
    print(f"{'python -c ':30s} {limit:6.3f} s")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:30s} {median:6.3f} s  {median / limit:5.1f}x  {'' if median < 0.5 else 'SLOW'}"
        )


if __name__ == "__main__":
    main()
