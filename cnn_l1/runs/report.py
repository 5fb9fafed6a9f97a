"""A run's figures as JSON and CSV, and for TensorBoard."""

import csv
import dataclasses
import json


def write_json(path, report):
    """Write a report as JSON; NaN and infinity, which JSON lacks, are refused."""
    text = json.dumps(report, indent=2, default=_plain, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"Expected plain data for JSON. Received: {type(value).__name__}")


def write_history(path, rows):
    """Write one row an epoch as CSV; a column that a stage lacks stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def counts_as_dict(counts):
    """A `ModelCount` as plain data, totals from counts."""
    return {
        "weights": counts.weights,
        "zeros": counts.zeros,
        "nonzero": counts.nonzero,
        "sparsity": counts.sparsity,
        "parameters": counts.parameters,
        "nonzero_parameters": counts.nonzero_parameters,
        "layers": [_layer_as_dict(layer) for layer in counts.layers],
    }


def _layer_as_dict(layer):
    described = {**dataclasses.asdict(layer), "nonzero": layer.nonzero, "sparsity": layer.sparsity}
    if not layer.frozen:  # a mark where it is due
        described.pop("frozen")
    return described


def write_rows(path, rows):
    """Write dataclass rows as CSV, one column a field."""
    dicts = [dataclasses.asdict(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dicts[0]))
        writer.writeheader()
        writer.writerows(dicts)


def write_hparams(folder, reports):
    """Write each run's strength and figures for TensorBoard's HParams page.

    Args:
        folder: Folder of the logs.
        reports: `{run: report}`.
    """
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    for name, report in reports.items():
        with tf.summary.create_file_writer(str(folder / name)).as_default():
            api.hparams({"l1_strength": report["l1_strength"], "seed": report["seed"]}, name)
            tf.summary.scalar("sparsity", report["counts"]["sparsity"], step=0)
            for network, scores in report["validation"].items():
                for key, value in scores.items():
                    tf.summary.scalar(f"{network}_{key}", value, step=0)
