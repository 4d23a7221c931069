"""Settings of which settings are derived rather than given."""

from __future__ import annotations

from napari_volseg.config.fields import Section, Sources

__all__ = ["AutomaticConfig"]


class AutomaticConfig(Section):
    """Settings that follow from the data, the machine and the time."""

    enabled: bool = False
    """Derive patch, network, batch, augmentation, sampling and schedule before the run starts."""
    kept: Sources = ()
    """Settings that were given and are not derived."""
