"""What a job says in the terminal."""

import io

from rich.console import Console

from napari_volseg.cli.progress import Reporter
from napari_volseg.events import Validated


def test_a_validation_shows_the_scores_of_instances_and_maps():
    text = io.StringIO()
    report = Reporter(Console(file=text, width=40, force_terminal=False))
    metrics = {
        "loss": 0.5,
        "f1_50": 0.75,
        "mask_dice": 0.9,
        "boundary_f1": 0.8,
        "distance_rmse": 0.083,
        "distance_ssim": 0.688,
        "distance_psnr": 21.6,
    }
    report(Validated(40, metrics, best=True))
    line = text.getvalue()
    assert line.startswith("validation at step 40: f1_50 0.750")
    for shown in ("mask_dice 0.900", "distance_rmse 0.083", "distance_ssim 0.688"):
        assert shown in line
    assert line.endswith("(best so far)\n")
