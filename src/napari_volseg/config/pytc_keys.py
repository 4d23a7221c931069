"""What the keys of a PyTorch Connectomics file are called here, or why they are not.

Keys that both share are not listed: they mean the same.
"""

from __future__ import annotations

__all__ = ["AUGMENTATIONS", "LEFT_OUT", "RENAMED", "VALUES"]

RENAMED = {
    "data.train_resolution": "data.voxel_size",
    "inference.data.test_image": "data.test_image",
    "inference.data.test_label": "data.test_label",
    "inference.data.test_mask": "data.test_mask",
    "inference.sliding_window.window_size": "inference.window_size",
    "inference.sliding_window.sw_batch_size": "inference.batch_size",
    "inference.sliding_window.overlap": "inference.overlap",
    "model.rsunet_down_factors": "model.down_factors",
}
"""Their key, and ours with the same meaning."""

VALUES = {
    "optimization.scheduler.name": {
        "WarmupCosineLR": "warmup_cosine",
        "CosineAnnealingLR": "warmup_cosine",
        "ConstantLR": "constant",
    },
}
"""Names of values that differ, by our key."""

AUGMENTATIONS = {
    "flip.prob": ("flip",),
    "rotate.prob": ("rotate90",),
    "affine.prob": ("affine",),
    "elastic.prob": ("elastic",),
    "intensity.gaussian_noise_prob": ("noise",),
    "intensity.shift_intensity_prob": ("intensity",),
    "intensity.contrast_prob": ("intensity",),
    "misalignment.prob": ("shifted_section",),
    "missing_section.prob": ("missing_section",),
    "motion_blur.prob": ("motion_blur", "blur"),
    "cut_noise.prob": ("cut_noise",),
}
"""Probabilities below their ``data.augmentation``, and ours: the first that exists."""

LEFT_OUT = {
    "data.augmentation": "strengths are fixed, only probabilities are taken over",
    "data.cache_rate": "data.cache chooses where volumes are kept",
    "data.image_transform": "intensities are scaled once per volume, by data.percentiles",
    "data.label_transform": "the three targets are always mask, boundary and distance",
    "data.pad_mode": "padding reflects",
    "data.persistent_workers": "patches are prepared by threads",
    "data.test_resolution": "files say their voxel size, else data.voxel_size",
    "data.use_preloaded_cache": "data.cache chooses where volumes are kept",
    "inference.data.output_name": "results have fixed names",
    "inference.data.output_path": "results are written into the run folder",
    "inference.data.test_resolution": "files say their voxel size, else data.voxel_size",
    "inference.decoding": "thresholds are settings of instances",
    "inference.evaluation": "all metrics are computed",
    "inference.postprocessing": "maps are always stored as uint8",
    "inference.sliding_window": "windows are blended so that a constant stays constant",
    "inference.test_time_augmentation": "only flips are taken over",
    "model.dropout": "RSUNet of these files ignored it as well",
    "model.in_channels": "the images say how many channels they have",
    "model.kernel_size": "kernels follow the voxel size, see model.kernel_sizes",
    "model.loss_functions": "each map has its own losses",
    "model.loss_kwargs": "each map has its own losses",
    "model.mednext_dim": "networks follow the volumes",
    "model.mednext_kernel_size": "kernels of MedNeXt have 3 voxels",
    "model.multi_task_config": "the channels are always mask, boundary and distance",
    "model.norm": "model.rsunet_norm is the norm of RSUNet",
    "model.num_res_units": "MONAI's U-Net has 2",
    "model.out_channels": "there are always three",
    "model.rsunet_activation": "RSUNet has one activation",
    "model.rsunet_depth_2d": "kernels follow the voxel size, see model.kernel_sizes",
    "model.rsunet_kernel_2d": "kernels follow the voxel size, see model.kernel_sizes",
    "model.rsunet_num_groups": "the number of groups follows the filters",
    "model.strides": "strides follow the voxel size, see model.down_factors",
    "model.upsample": "upsampling is exact",
    "monitor.checkpoint": "checkpoints are kept by monitor.checkpoint.save_top_k",
    "monitor.detect_anomaly": "a loss that is not finite always stops a step",
    "monitor.early_stopping": "the validation score is watched, else the training loss",
    "monitor.logging": "everything is logged",
    "optimization.benchmark": "the device decides",
    "optimization.deterministic": "the same seed always gives the same losses",
    "optimization.optimizer.betas": "betas are 0.9 and 0.999",
    "optimization.optimizer.eps": "eps is 1e-8",
    "optimization.scheduler": "the schedule follows the length of the run",
    "system.inference": "inference.batch_size is the only such setting",
    "system.num_cpus": "all processors are used",
    "system.num_gpus": "see system.training.num_gpus",
    "system.training.num_cpus": "all processors are used",
}
"""Keys, and sections with all their keys, that are left out; and why that is safe."""
