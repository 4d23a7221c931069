"""Instances that follow the thresholds, made in a process of their own.

A client asks, a server segments, on two lanes at the same time: one for large boxes,
one for the few slices that are looked at, whose answer comes at once. They exchange
lines of JSON over the server's standard input and output, and arrays as NPY files in a
folder of their own. The client side needs numpy only, so that the process of napari
stays responsive: the libraries that segment hold Python's interpreter lock.
"""

from napari_volseg.retuning.client import Failed, Retuned, Retuner
from napari_volseg.retuning.server import serve

__all__ = ["Failed", "Retuned", "Retuner", "serve"]
