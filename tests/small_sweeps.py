"""What tests of sweeps share: a config of a fraction of a second, an engine without processes."""

from cnn_l1.sweep.engines import run_job


def linear(steps, **sections):
    """Linear regression on `diabetes` by so many steps of all examples, as plain data."""
    return {
        "name": "linear",
        "data": {"name": "diabetes"},
        "model": {"name": "linear"},
        "optimizer": {
            "name": "sgd", "learning_rate": 0.2, "momentum": 0.9, "schedule": {"name": "constant"},
        },
        "training": {
            "epochs": 1, "batch_size": 10_000, "steps_per_epoch": steps,
            "steps_per_execution": steps,
        },
        "fine_tuning": {"epochs": 0},
        "baseline": False,
        "tensorboard": False,
        "export": {"formats": []},
    } | sections  # fmt: skip


def run_here(plan, on_event):
    """`run_locally` in this process, without a new TensorFlow for every worker."""
    for chain in plan.chains:
        previous = None
        for job in chain:
            event = run_job(plan.folder, job, previous)
            previous = job.name if event.state in ("done", "there") else previous
            on_event(event)
