"""Kinds of values that several sections of the configuration share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Factor",
    "Fraction",
    "PadSize",
    "PatchSize",
    "PositiveInt",
    "Section",
    "Sources",
    "Threshold",
    "VoxelSize",
    "Weight",
]

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Threshold = Annotated[float, Field(ge=0, le=1.1)]
PatchSize = tuple[PositiveInt, PositiveInt, PositiveInt]
PadSize = tuple[
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
    Annotated[int, Field(ge=0)],
]
VoxelSize = tuple[
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
]
Factor = tuple[
    Annotated[int, Field(ge=1, le=4)],
    Annotated[int, Field(ge=1, le=4)],
    Annotated[int, Field(ge=1, le=4)],
]
Weight = Annotated[float, Field(ge=0)]


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Sources = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class Section(BaseModel):
    """Frozen settings; an unknown key is an error, a docstring is a help sentence."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
