"""What this machine trains, predicts and segments in a minute, and what limits it."""

from napari_volseg.bench.predicting import Predicting
from napari_volseg.bench.segmenting import Segmenting
from napari_volseg.bench.training import Training
from napari_volseg.bench.whole import Bench, bench

__all__ = ["Bench", "Predicting", "Segmenting", "Training", "bench"]
