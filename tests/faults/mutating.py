"""Open and read damaged copies of good files: ``mutating.py FORMAT N SEED FOLDER``.

Runs in a process of its own, which a fault of a library would kill. Whatever a damaged
file makes of itself, the reader returns an array or raises DataError.
"""

import contextlib
import faulthandler
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.io import list_datasets, open_volume

HANGING = 60


def write_hdf5(folder, values):
    import h5py

    with h5py.File(folder / "packed.h5", "w") as h5:
        options = {"chunks": (8, 8, 8), "compression": "gzip"}
        raw = h5.create_dataset("a/raw", data=values, **options)
        raw.attrs["resolution"] = (40, 4, 4)
        h5.create_dataset("labels", data=values[0].astype("u4"), shuffle=True)
    with h5py.File(folder / "new.h5", "w", libver="latest") as h5:
        h5.create_dataset("raw", data=values, fletcher32=True, maxshape=(None,) * 3)


def write_zarr(folder, values):
    import numcodecs
    import zarr
    from zarr.codecs import GzipCodec

    packers = {"blosc": numcodecs.Blosc(), "gzip": numcodecs.GZip(), "plain": None}
    for name, packer in packers.items():
        zarr.create_array(
            folder / f"{name}.zarr",
            data=values,
            chunks=(8, 8, 8),
            compressors=packer,
            zarr_format=2,
        )
    zarr.create_array(folder / "new.zarr", data=values, chunks=(8, 8, 8))
    zarr.create_array(
        folder / "shards.zarr",
        data=values,
        chunks=(4, 4, 4),
        shards=(8, 8, 8),
        compressors=GzipCodec(),
    )


def write_tiff(folder, values):
    import tifffile

    tifffile.imwrite(folder / "plain.tif", values)
    tifffile.imwrite(folder / "packed.tif", values, compression="zlib", predictor=2)
    tifffile.imwrite(folder / "tiles.tif", values, tile=(16, 16), bigtiff=True)
    tifffile.imwrite(folder / "a.ome.tif", values, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "imagej.tif", values, imagej=True, byteorder=">")


def write_npy(folder, values):
    np.save(folder / "a.npy", values)
    np.save(folder / "b.npy", np.asfortranarray(values.astype(">u2")))


WRITERS = {"hdf5": write_hdf5, "npy": write_npy, "tiff": write_tiff, "zarr": write_zarr}


def mutate(content, rng):
    """Return damaged bytes: some changed, a piece lost, doubled or swapped, cut off."""
    raw = bytearray(content)
    kind = rng.integers(6)
    at = int(rng.integers(len(raw)))
    if rng.random() < 0.5:  # headers are short, and where it matters
        at = int(rng.integers(min(len(raw), 600)))
    n = int(2 ** rng.integers(0, 8))
    if kind == 0:
        return bytes(raw[:at])
    if kind == 1:
        del raw[at : at + n]
    elif kind == 2:
        raw[at:at] = raw[at : at + n]
    elif kind == 3:
        odd = (0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)[rng.integers(6)]
        raw[at : at + 8] = odd.to_bytes(8, ("little", "big")[rng.integers(2)])
    else:
        for place in rng.integers(at, min(at + n, len(raw)), 1 + n // 8):
            raw[place] = rng.integers(256)
    return bytes(raw)


def look(path):
    """Do what users do with a file."""
    for name in [None, *list_datasets(str(path))[:2]]:
        volume = open_volume(f"{path}:{name}" if name else str(path))
        volume.data[tuple(slice(0, 3) for _ in volume.data.shape)]
        if volume.data.nbytes < 2**24:
            volume.read()


def main(kind, n, seed, folder):
    """Try mutants; print a line of JSON about those that were read and refused."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    good, bad = folder / "good", folder / "bad"
    good.mkdir()
    values = rng.integers(0, 9, (8, 16, 16)).astype(np.uint8)
    WRITERS[kind](good, values)
    n_read = 0
    sources = sorted(good.iterdir())
    for source in sources:
        look(source)
    for i in range(n):
        source = sources[i % len(sources)]
        target = bad / source.name
        shutil.rmtree(bad, ignore_errors=True)
        bad.mkdir()
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        files = sorted(p for p in target.rglob("*") if p.is_file()) or [target]
        metadata = [
            file for file in files if file.name[0] == "." or "json" in file.name
        ]
        if metadata and rng.random() < 0.5:
            files = metadata
        victim = files[rng.integers(len(files))]
        victim.write_bytes(mutate(victim.read_bytes(), rng))
        faulthandler.dump_traceback_later(HANGING, exit=True)
        try:
            look(target)
            n_read += 1
        except DataError as error:
            if "\n" in str(error):
                raise ValueError(f"mutant {i} of {source.name}") from error
        except Exception as error:
            raise ValueError(f"mutant {i} of {source.name}") from error
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(json.dumps({"read": n_read, "refused": n - n_read}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
