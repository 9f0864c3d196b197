"""The figures of the studies that are sweeps; `analysis.py` draws them."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def autoencoder(means: pd.DataFrame, path: Path) -> None:
    """Training loss against steps and against processor seconds, or those of the clock where the former are not known."""
    seconds = "processor_seconds" if "processor_seconds" in means else "seconds"
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, rows in means.groupby("method"):
        axes[0].plot(rows["step"], rows["train_loss"], label=name)
        axes[1].plot(rows[seconds], rows["train_loss"], label=name)
    axes[0].set(xscale="log", xlabel="step", ylabel="training loss (nats an image), mean of the seeds")
    axes[1].set(xscale="log", xlabel=f"{seconds.replace('_', ' ')} of training")
    axes[0].legend()
    _save(figure, path)


def convnet(rows: pd.DataFrame, path: Path) -> None:
    """Steps to the target against the batch size, with the range over seeds."""
    figure, axis = plt.subplots(figsize=(6, 4))
    split = rows["method"].str.rsplit(", batch ", n=1, expand=True)
    for name, group in rows.assign(name=split[0], batch=split[1].astype(float)).groupby("name"):
        known = group[np.isfinite(group["steps_to_target"])].sort_values("batch")
        middle = known["steps_to_target"]
        low, high = middle - known["least"], known["most"].where(np.isfinite(known["most"]), middle) - middle
        axis.errorbar(known["batch"], middle, yerr=[low, high], marker="o", capsize=3, label=name)
    axis.set(xscale="log", yscale="log", xlabel="batch", ylabel="steps to 80 % validation accuracy")
    axis.legend()
    _save(figure, path)


def entropy(means: pd.DataFrame, path: Path) -> None:
    """Test accuracy and training loss against the number of gradients."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for name, rows in means.groupby("method"):
        axes[0].plot(rows["step"], 100 * rows["test_accuracy"], marker=".", label=name)
        axes[1].plot(rows["step"], rows["train_loss"], marker=".", label=name)
    axes[0].set(xlabel="gradients", ylabel="test accuracy, %, mean of the seeds")
    axes[1].set(xlabel="gradients", ylabel="training loss")
    axes[0].legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
