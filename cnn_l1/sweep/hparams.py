"""A sweep's runs for TensorBoard's HParams page."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api


def write_hparams(folder: pathlib.Path, reports: Mapping[str, Any]) -> None:
    """Write each run's strength and figures for TensorBoard's HParams page.

    Args:
        folder: Folder of the logs.
        reports: `{run: report}`.
    """
    for name, report in reports.items():
        with tf.summary.create_file_writer(str(folder / name)).as_default():
            api.hparams({"l1_strength": report["l1_strength"], "seed": report["seed"]}, name)
            tf.summary.scalar("sparsity", report["counts"]["sparsity"], step=0)
            for network, scores in report["validation"].items():
                for key, value in scores.items():
                    tf.summary.scalar(f"{network}_{key}", value, step=0)
