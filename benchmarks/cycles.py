"""Count what starting and stopping trainings leaves behind in napari's process.

Usage: python benchmarks/cycles.py [--cycles N] [--worker real|script] [--keep-runs]

Each cycle presses Train in the dock, waits for the first sign of work, gives the
training new labels, stops it and waits for its end, all in one napari. Prints JSON:
threads, open files, child processes and memory after the first fifth of the cycles and
at the end. The worker is a real one, or a script of a few lines that says the same
things: what is left behind in napari does not depend on it, and a cycle takes a second.
Run folders are deleted after each cycle, unless they are to be kept: lists of runs are
then longer from cycle to cycle, and so is the memory that reading them takes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
from event_loop import pump
from virtual_screen import ensure_screen

SHAPE = (16, 64, 64)
SCRIPT = """
import json, time
from pathlib import Path

def say(event, **fields):
    with open("events.jsonl", "a") as log:
        log.write(json.dumps({"event": event, **fields}) + "\\n")

def asked():
    try:
        return json.loads(Path("control.json").read_text())
    except FileNotFoundError:
        return {}

say("Started", job="train", device="cpu", total=10)
step = 0
while not asked().get("stop"):
    step += 1
    say("Progress", step=step, total=10, elapsed=step, loss=1 / step)
    time.sleep(0.02)
fields = {"reason": "stopped", "message": "stopped", "path": None, "metrics": {}}
Path("result.tmp").write_text(json.dumps(fields))
Path("result.tmp").rename("result.json")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--worker", choices=("real", "script"), default="script")
    parser.add_argument("--keep-runs", action="store_true")
    args = parser.parse_args()
    if args.cycles < 5:
        parser.error("give at least 5 cycles: the first fifth is not compared")
    ensure_screen()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VOLSEG_RUNS"] = folder
        result = measure(args.cycles, args.worker, keep_runs=args.keep_runs)
    print(json.dumps(result, indent=2))


def measure(cycles: int, worker: str, *, keep_runs: bool) -> dict[str, Any]:
    import napari

    from napari_volseg.sample_data import make_sample
    from napari_volseg.widgets.actions import open_dock

    if worker == "script":
        use_script()
    sample = make_sample("cells", shape=SHAPE)
    viewer = napari.Viewer(show=True)
    place: dict[str, Any] = {"scale": sample.image.voxel_size, "units": ("nm",) * 3}
    viewer.add_image(sample.image.data, name="cells", **place)
    labels = viewer.add_labels(sample.labels_ZYX, name="cells labels", **place)
    dock = open_dock(viewer, "Train")
    counted: list[dict[str, float]] = []
    for number in range(cycles):
        cycle(viewer, dock, labels, number)
        if not keep_runs:
            delete_runs(Path(os.environ["VOLSEG_RUNS"]))
        if number in (cycles // 5 - 1, cycles - 1):  # counting takes memory itself
            counted.append(count())
    viewer.close()
    first, last = counted
    growth = {key: round(last[key] - first[key], 2) for key in first}
    growth["rss_percent"] = round(100 * growth["rss_mb"] / first["rss_mb"], 2)
    return {
        "worker": worker,
        "keep_runs": keep_runs,
        "cycles": cycles,
        "after_first_fifth": first,
        "at_the_end": last,
        "growth": growth,
    }


def cycle(viewer: Any, dock: Any, labels: Any, number: int) -> None:
    from napari_volseg.widgets.job import running_job

    pump(dock.train.isEnabled, 20)
    dock.start()
    job = running_job(viewer, "train")
    if job is None:
        raise SystemExit(f"training does not start: {dock.message.text()}")
    pump(lambda: job.progress is not None, 120)
    labels.selected_label = number + 1
    labels.paint((8, 32, 32), number + 1)
    dock.new_labels.hand_in()
    pump(dock.new_labels.use.isEnabled, 20)
    job.stop()
    pump(lambda: running_job(viewer, "train") is None, 120)
    if running_job(viewer, "train") is not None:
        raise SystemExit(f"cycle {number}: the training does not end")


def delete_runs(folder: Path) -> None:
    for run in folder.iterdir():
        shutil.rmtree(run)


def count() -> dict[str, float]:
    """Return what the process holds, once everything on its way has gone."""
    pump(lambda: threading.active_count() == 1, 2.0)
    gc.collect()
    process = psutil.Process()
    files = process.num_handles() if sys.platform == "win32" else process.num_fds()
    return {
        "threads": threading.active_count(),
        "open_files": files,
        "processes": len(process.children(recursive=True)),
        "objects": len(gc.get_objects()),
        "rss_mb": round(process.memory_info().rss / 1e6, 1),
    }


def use_script() -> None:
    """Launch a script in place of the real worker."""
    from napari_volseg.runs import launch
    from napari_volseg.widgets import job

    def launch_script(folder: Path, *, resume: bool = False) -> Any:
        command = [sys.executable, "-c", SCRIPT]
        return launch(folder, resume=resume, command=command)

    job.launch = launch_script  # type: ignore[assignment]


if __name__ == "__main__":
    main()
