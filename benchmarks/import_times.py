"""Time how long it takes to import the package and to open each dock.

Usage: python benchmarks/import_times.py [--repeats N]

Every measurement runs in a new process. Prints JSON: medians, and whether torch was
loaded, which must not happen in napari's process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

from virtual_screen import ensure_screen

IMPORT = """
import json, sys, time
started = time.perf_counter()
import napari_volseg
print(json.dumps({"ms": 1000 * (time.perf_counter() - started),
                  "torch": "torch" in sys.modules, "napari": "napari" in sys.modules}))
"""
DOCK = """
import json, sys, time
import napari
viewer = napari.Viewer(show=True)
napari.qt.get_qapp().processEvents()
started = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-volseg", NAME)
napari.qt.get_qapp().processEvents()
print(json.dumps({"ms": 1000 * (time.perf_counter() - started),
                  "torch": "torch" in sys.modules, "monai": "monai" in sys.modules}))
viewer.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    scripts = {"import napari_volseg": IMPORT}
    for dock in ("Train", "Predict", "Inspect", "Review", "Evaluate"):
        scripts[f"open {dock}"] = DOCK.replace("NAME", repr(dock))
    results = {name: measure(code, args.repeats) for name, code in scripts.items()}
    print(json.dumps(results, indent=2))


def measure(code: str, repeats: int) -> dict[str, object]:
    answers = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    times = [answer.pop("ms") for answer in answers]
    return {"median_ms": round(median(times), 1), **answers[-1]}


if __name__ == "__main__":
    ensure_screen()
    main()
