"""The base of this package's errors."""


class CnnL1Error(Exception):
    """Any error of this package but of wrong arguments, which are a `ValueError`.

    Attributes:
        exit_code: What a command ends with: 1 for a run that failed, 2 for a file, key, value
            or flag that cannot be used.
        setting: The part of a config that the error is about, e.g. `"target"`; else empty.

    Example:
        >>> try:
        ...     cnn_l1.export_tflite(model, "model.tflite")
        ... except cnn_l1.CnnL1Error as error:
        ...     print(error)
    """

    exit_code = 1
    setting = ""
