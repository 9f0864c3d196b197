"""Tiny files in the exact formats of the real datasets, and a world without network to look for them in."""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from optbench.data import locate


def offline(monkeypatch, tmp_path):
    """No network, no $OPTBENCH_DATA and no system folder; returns an empty data_dir."""

    def refuse(url):
        raise OSError("no network in tests")

    monkeypatch.setattr(locate, "open_url", refuse)
    monkeypatch.setattr(locate, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.delenv("OPTBENCH_DATA", raising=False)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return data_dir


def random_images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# ---- IDX ------------------------------------------------------------------------------------------------------------


def idx_bytes(array):
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, train=40, test=10, suffix=".gz"):
    """The four files of MNIST or Fashion-MNIST; returns the arrays by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": random_images(train, 28, 28),
        "train-labels-idx1-ubyte": np.arange(train, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": random_images(test, 28, 28, seed=1),
        "t10k-labels-idx1-ubyte": np.arange(test, dtype=np.uint8) % 10,
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix == ".gz" else content)
    return arrays


# ---- CIFAR: pickles as Python 2 wrote them --------------------------------------------------------------------------


def _string(content):
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content  # SHORT_BINSTRING
    return b"T" + struct.pack("<i", len(content)) + content  # BINSTRING


def _array(array):
    shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + b"(" + _string(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n" + b"(cnumpy\nndarray\n(K\x00t" + _string(b"b") + b"tR"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _string(array.tobytes()) + b"tb"  # \x89: not Fortran order


def _opcodes(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value])
    return _array(value) if isinstance(value, np.ndarray) else _string(value.encode())


def python2_pickle(value):
    """A pickle of protocol 2 as Python 2 wrote it: every str a byte string, numpy under its old name."""
    return b"\x80\x02" + _opcodes(value) + b"."


def cifar_members(classes, examples=20):
    """The content of each file in the archive of CIFAR-10 (10 classes) or CIFAR-100 (100), and the arrays by name."""
    if classes == 10:
        names, meta, key = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "batches.meta", "labels"
    else:
        names, meta, key = ["train", "test"], "meta", "fine_labels"
    members, arrays = {}, {}
    for seed, name in enumerate(names):
        data = random_images(examples, 3072, seed=seed)
        labels = [(7 * i + seed) % classes for i in range(examples)]
        arrays[name] = (data, labels)
        batch = {"batch_label": name, key: labels, "data": data, "filenames": [f"{i}.png" for i in range(examples)]}
        if classes == 100:
            batch["coarse_labels"] = [label // 5 for label in labels]
        members[name] = python2_pickle(batch)
    names_key = "label_names" if classes == 10 else "fine_label_names"
    members[meta] = python2_pickle({names_key: [f"class {i}" for i in range(classes)], "num_vis": 10})
    return members, arrays


def write_cifar(path, folder, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


# ---- Hugging Face parquet -------------------------------------------------------------------------------------------


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_parquet(folder, split, images, labels, names, shards=1, image="img", label="label"):
    """Shards as on the hub: a struct of bytes and path, int64 labels, and class names in the schema's metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [(image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), (label, pa.int64())],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    for shard in range(shards):
        part = range(shard * len(images) // shards, (shard + 1) * len(images) // shards)
        rows = {image: [{"bytes": png(images[i]), "path": f"{i}.png"} for i in part], label: [labels[i] for i in part]}
        pq.write_table(pa.table(rows, schema=schema), folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")


# ---- image folders, text --------------------------------------------------------------------------------------------


def write_image_folder(root, split, images_by_class):
    """``root/split/WNID/NAME``, each image given as (name, pixels)."""
    for wnid, images in images_by_class.items():
        folder = Path(root) / split / wnid
        folder.mkdir(parents=True)
        for name, pixels in images:
            Image.fromarray(pixels).save(folder / name, "PNG" if name.endswith("png") else "JPEG", quality=95)


def write_ptb(folder, train, valid, test):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"ptb.{name}.txt").write_text(text)
