"""The networks that all have to pass the same tests."""

from __future__ import annotations

from napari_volseg.config import ModelConfig

NETWORKS = {
    "rsunet": {},
    "rsunet-group": {"rsunet_norm": "group"},
    "rsunet-instance": {"rsunet_norm": "instance"},
    "rsunet-concat": {"rsunet_skip": "concat", "rsunet_blocks": 2},
    "rsunet-gated": {"rsunet_skip": "attention", "rsunet_attention": True},
    "rsunet-dense": {"rsunet_skip": "dense", "filters": (4, 6, 8, 8)},
    "rsunet-supervised": {"deep_supervision": True, "filters": (4, 6, 8, 8)},
    "rsunet-all": {
        "rsunet_skip": "dense",
        "rsunet_attention": True,
        "rsunet_blocks": 2,
        "rsunet_dropout": 0.1,
        "gradient_checkpointing": True,
        "deep_supervision": True,
    },
    "rsunet-binned": {
        "binning": (1, 2, 2),
        "deep_supervision": True,
        "filters": (4, 6, 8),
    },
    "monai_unet": {},
    "monai_attention_unet": {},
    "monai_segresnet": {"filters": (4, 8, 16)},
    "monai_dynunet": {},
    "monai_dynunet-supervised": {"deep_supervision": True, "filters": (4, 6, 8, 8)},
    "monai_basic_unetplusplus": {"filters": (4, 4, 6, 6, 8)},
    "monai_basic_unetplusplus-supervised": {
        "filters": (4, 4, 6, 6, 8),
        "deep_supervision": True,
    },
    "monai_swin_unetr": {"filters": (12,)},
    "monai_swin_unetr-checkpointed": {"filters": (12,), "gradient_checkpointing": True},
    "monai_unetr": {"filters": (4,), "unetr_hidden_size": 24, "unetr_num_heads": 2},
    "mednext": {},
    "mednext-supervised": {"deep_supervision": True},
}
"""Settings by name; the part before the dash is the architecture."""


def make_model(name: str, **changes: object) -> ModelConfig:
    """Return the settings of one of the networks."""
    tree = {"filters": (4, 6, 8), **NETWORKS[name], **changes}
    return ModelConfig(architecture=name.split("-")[0], **tree)
