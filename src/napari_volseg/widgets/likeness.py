"""The line of the Predict dock that warns of an image unlike the training images."""

from __future__ import annotations

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_volseg.errors import DataError
from napari_volseg.intensities import compare_intensities
from napari_volseg.models import ModelInfo
from napari_volseg.volume import Volume
from napari_volseg.widgets.messages import MessageLine
from napari_volseg.widgets.modellist import model_identity
from napari_volseg.widgets.newest import Newest

__all__ = ["LikenessLine"]


class LikenessLine(QWidget):
    """Looks at a sample of an image in a thread, and shows a warning or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        self._about: object = None
        self._newest = Newest(self)
        self._newest.returned.connect(self._show)
        self._message = MessageLine()
        self._message.setToolTip(
            "Gray values, noise and fine lines of a sample of the image, compared with "
            "those of the training images"
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._message)
        self.hide()

    def text(self) -> str:
        """Return the warning that is shown, empty when there is none."""
        return self._message.text()

    def check(self, volume: Volume, model: ModelInfo) -> None:
        """Compare a volume with what a model learnt from, soon."""
        about = (volume.name, volume.data.shape, model_identity(model))
        if about != self._about:
            self.clear()  # what is shown is about another image
            self._about = about
        self._asked += 1
        if model.intensities:
            self._newest.ask(_compare, self._asked, volume, model)

    def clear(self) -> None:
        """Show nothing, and not what is still to be found either."""
        self._asked += 1
        self._about = None
        self._newest.forget()
        self._tell("")

    def _show(self, found: tuple[int, str]) -> None:
        asked, warning = found
        if asked == self._asked:
            self._tell(warning)

    def _tell(self, warning: str) -> None:
        if warning:
            self._message.show_error(warning)
        else:
            self._message.clear()
        self.setVisible(bool(warning))


def _compare(asked: int, volume: Volume, model: ModelInfo) -> tuple[int, str]:
    """Return the warning with the number of the question."""
    known = model.intensities
    try:
        warning = compare_intensities(
            volume, known, model.percentiles, model.voxel_size
        )
    except DataError:
        return asked, ""  # the prediction says what is wrong with it
    return asked, warning or ""
