"""Train on several GPUs, or in several processes: start the ranks and watch them."""

from napari_volseg.ranks.process import serve_rank
from napari_volseg.ranks.supervision import supervise

__all__ = ["serve_rank", "supervise"]
