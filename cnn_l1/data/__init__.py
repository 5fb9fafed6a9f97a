"""Where examples come from: data sets, splits, embedded sets, augmentation, tasks."""
