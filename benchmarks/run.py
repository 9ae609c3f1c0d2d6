"""Runs all benchmarks, and leaves their tables in `benchmarks/results` and plots of some in `docs/figures`.

That takes 25 to 40 minutes, most of it for a campaign of a million messages. Nothing else may run meanwhile, so it
waits for an idle machine, ten minutes at most. The tables are written at the end: they are always of one run on one
machine.

With names, only these benchmarks run, and no file changes. `--plot` runs none and draws the plots out of the tables.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import plot

HERE = Path(__file__).parent
# The machine comes first, because it tells the load before the run.
NAMES = (
    "machine",
    "import_time",
    "bulk",
    "latency",
    "pace",
    "burst",
    "limiter",
    "keyed",
    "queued",
    "growth",
    "memory",
    "campaign",
)
MOST_LOAD = 0.5  # processes that ran in the last minute, on average
PATIENCE = 20  # looks at the load, half a minute apart: an installation right before this run is over soon


def wait_until_idle() -> None:
    """Wait while the machine has other work, or give up."""
    for _ in range(PATIENCE):
        if (load := os.getloadavg()[0]) <= MOST_LOAD:
            return
        print(f"the load of this machine is {load:.2f}: its figures would be wrong", file=sys.stderr)
        time.sleep(30)
    sys.exit("this machine is not idle")


def run(name: str) -> str:
    """Run a benchmark, and print and return its table."""
    table = subprocess.run([sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True, check=True).stdout
    print(table, flush=True)
    return table


def main() -> None:
    """Run those that are asked for, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--plot", action="store_true", help="only draw the plots out of the tables")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"no benchmark is called {', '.join(unknown)}")
    if asked.names:
        for name in asked.names:
            run(name)
        return
    if not asked.plot:
        wait_until_idle()
        tables = {name: run(name) for name in NAMES}
        for name, table in tables.items():
            (plot.RESULTS / f"{name}.txt").write_text(table, encoding="utf-8")
    plot.main()


if __name__ == "__main__":
    main()
