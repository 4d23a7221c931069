"""Train on several GPUs, or in several processes: start the ranks and watch them."""

from napari_volseg.ranks.cluster import (
    assist_in_cluster,
    lead_cluster,
    place_in_cluster,
)
from napari_volseg.ranks.process import serve_rank
from napari_volseg.ranks.supervision import supervise

__all__ = [
    "assist_in_cluster",
    "lead_cluster",
    "place_in_cluster",
    "serve_rank",
    "supervise",
]
