"""Find the files of a user's own dataset, and check them by their names and headers. Imports no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optbench.data import folders, npz, table_files
from optbench.data.held_out import HeldOut

Files = dict[str, Path]


def _class_folders(dataset: Mapping[str, Any], data_dir: str | Path) -> Files:
    """The images by split, class and name, and the folder of each class by a name that ends with "/"."""
    found = folders.class_folders(folders.own_place(dataset.get("path"), data_dir))
    _held_out(dataset).sizes(len(found.images("train")), "test" in found.splits, "validation" in found.splits)
    files: Files = {}
    for split, classes in found.splits.items():
        for name, images in classes.items():
            files[f"{split}/{name}/"] = found.root / found.names[split] / name
            files |= {f"{split}/{name}/{path.name}": path for path in images}
    return files


def _arrays(dataset: Mapping[str, Any], data_dir: str | Path) -> Files:
    path = folders.own_place(dataset.get("path"), data_dir, suffixes=npz.SUFFIXES)
    found = npz.inspect(path, dataset["layout"], dataset.get("task") == "regression")
    _held_out(dataset).sizes(found["train"].inputs.shape[0], "test" in found, "validation" in found)
    return {"arrays": path}


def _table(dataset: Mapping[str, Any], data_dir: str | Path) -> Files:
    given = {"path": dataset.get("path"), "test_path": dataset.get("test_path")}
    files = {
        option: folders.own_place(path, data_dir, option, table_files.SUFFIXES)
        for option, path in given.items()
        if path or option == "path"
    }
    named = (dataset["ignore"], dataset["categorical"], dataset["delimiter"])
    table_files.inputs(list(files.values()), dataset.get("target"), *named)
    return files


def _held_out(dataset: Mapping[str, Any]) -> HeldOut:
    return HeldOut(dataset.get("test"), dataset.get("validation"))


# By the names that ``info.files`` of a dataset's file uses. The names of the files do not depend on their place.
OWN_FILES: dict[str, Callable[[Mapping[str, Any], str | Path], Files]] = {
    "class_folders": _class_folders,
    "arrays": _arrays,
    "table": _table,
}
