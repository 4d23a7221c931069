"""The data that a command line gives in place of the configuration's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from napari_volseg.config import Config, build_config
from napari_volseg.errors import DataError
from napari_volseg.runs import absolute_file, absolute_source

__all__ = ["GivenData", "add_data_options", "given_data", "with_sources"]

_KINDS = ("image", "label", "mask")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Offer training and validation data."""
    for role, what in (("", "training"), ("val-", "validation")):
        group = parser.add_argument_group(
            f"{what} data, in place of the configuration's"
        )
        for kind, text in (
            ("image", "image, or a glob of images"),
            ("label", "its instance labels"),
            ("mask", "where it is annotated; without masks, everywhere"),
        ):
            group.add_argument(
                f"--{role}{kind}", action="append", metavar="SRC", help=text
            )


@dataclass(frozen=True, slots=True)
class GivenData:
    """The sources given on the command line for one role."""

    role: str
    image: Sequence[str]
    label: Sequence[str]
    mask: Sequence[str]

    def check(self) -> None:
        """Refuse labels without an image, and an image without labels."""
        if not self.image:
            raise DataError(f"--{self._prefix}label and mask need an image beside them")
        if not self.label:
            raise DataError(
                f"--{self._prefix}image needs its labels: add --{self._prefix}label SRC"
            )

    @property
    def _prefix(self) -> str:
        return "val-" if self.role == "val" else ""


def given_data(args: argparse.Namespace) -> list[GivenData]:
    """Return what was given for each role; refuse images without labels."""
    given = []
    for role in ("train", "val"):
        prefix = "val_" if role == "val" else ""
        found = {kind: tuple(getattr(args, f"{prefix}{kind}") or ()) for kind in _KINDS}
        data = GivenData(role, **found)
        if any(found.values()):
            data.check()
            given.append(data)
    return given


def with_sources(config: Config, given: Sequence[GivenData]) -> Config:
    """Put given sources into the configuration and make all paths in it absolute."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    for data in given:
        for kind in _KINDS:
            tree["data"][f"{data.role}_{kind}"] = list(getattr(data, kind))
    for role in ("train", "val", "test"):
        for kind in _KINDS:
            key = f"{role}_{kind}"
            tree["data"][key] = [absolute_source(s) for s in tree["data"][key]]
    model = tree["model"]
    for section, key in (
        (model, "initial_weights"),
        (model["loss"], "perceptual_model"),
    ):
        if section[key]:
            section[key] = absolute_file(section[key])
    return build_config(tree)
