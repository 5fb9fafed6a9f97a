"""Run a TFLite file in LiteRT, example by example: any inputs and outputs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from cnn_l1.process.silence import silenced
from cnn_l1.tflite.file import ExportError
from cnn_l1.tflite.structures import common_length, in_order

PREFIX = "serving_default_"  # what the converter puts before the name of an input


class TFLiteRunner:
    """Run a TFLite file on one example at a time.

    Inputs and outputs are in the order of the file. Real numbers go in and come out: an
    input with a scale is quantized, an output with a scale is dequantized. Integers
    without a scale, such as pixels or ids, go in and come out as they are.

    A file that keeps a state keeps it from one call to the next.

    Args:
        path: A `.tflite` file, or its bytes.
        threads: Threads of the interpreter. Default 1.
        reference: Whether to run LiteRT's reference kernels, slow and plain, rather than
            the optimized ones. Default `False`.
        name: What errors call the file. Default: the name at its path, or `"TFLite file"`.

    Attributes:
        inputs, outputs: LiteRT's details of each input and output, in the file's order.
        input_names, output_names: The names in the file's signature; the tensors' names
            where it has none.
        input, output: The first of them, or `None`.
        interpreter: LiteRT's interpreter.

    Raises:
        ExportError: If LiteRT does not run the file, or it takes or gives strings.

    Example:
        >>> runner = TFLiteRunner("model.tflite")
        >>> runner(x[0]).shape  # one example in, one out
        (3,)
    """

    def __init__(
        self,
        path: str | pathlib.Path | bytes,
        threads: int = 1,
        reference: bool = False,
        name: str | None = None,
    ) -> None:
        content = bytes(path) if isinstance(path, (bytes, bytearray, memoryview)) else None
        self.name = name or ("TFLite file" if content is not None else pathlib.Path(str(path)).name)
        if content is not None and not content:
            raise ExportError(f"{self.name}: expected a file that LiteRT runs. Received: no bytes")
        try:
            with silenced():
                self.interpreter = Interpreter(
                    model_path=None if content is not None else str(path),
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=(
                        OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
                    ),
                )
                self.inputs = self.interpreter.get_input_details()
                self.outputs = self.interpreter.get_output_details()
                # Open sizes stand as 1 in the file, too small for many a network.
                if not any(-1 in detail["shape_signature"][1:] for detail in self.inputs):
                    self.interpreter.allocate_tensors()
                    self.outputs = self.interpreter.get_output_details()
        except (RuntimeError, ValueError) as error:
            # E.g. int8 ranges of a network whose every output is 0.
            raise self._failure(error) from None
        signature = self._signature()
        self.input_names = _names(self.inputs, signature.get("inputs", {}))
        self.output_names = _names(self.outputs, signature.get("outputs", {}))
        for kind, details in (("input", self.inputs), ("output", self.outputs)):
            for number, detail in enumerate(details):
                if np.dtype(detail["dtype"]).kind not in "biufc":
                    raise ExportError(
                        f"{self.name}: expected inputs and outputs of numbers. "
                        f"Received: {kind} {number} ({detail['name']!r}) of strings"
                    )
        self.input: dict[str, Any] | None = self.inputs[0] if self.inputs else None
        self.output: dict[str, Any] | None = self.outputs[0] if self.outputs else None
        # Of the inputs, as memory was last allocated; `None` where it was not.
        self._shapes: list[tuple[int, ...] | None] = [
            None if -1 in detail["shape_signature"][1:] else tuple(map(int, detail["shape"]))
            for detail in self.inputs
        ]

    def __call__(self, *inputs: Any) -> Any:
        """The outputs for one example.

        Args:
            *inputs: An array for each input, without a batch axis, in the file's order; or
                one dict of them by name. An input whose size is open in the file takes
                examples of any size.

        Returns:
            An array without a batch axis; a list of them where the file has several
            outputs. Float32, but for integers and bools without a scale.

        Raises:
            ValueError: If the inputs are not as many, of the shapes, or of values that the
                file takes.
            ExportError: If LiteRT fails on them.
        """
        stored = self.stored_outputs(*inputs)
        found = [
            self._without_batch(self._real(value, detail))
            for value, detail in zip(stored, self.outputs, strict=True)
        ]
        return found[0] if len(found) == 1 else found

    def stored(self, *inputs: Any) -> Any:
        """The outputs for one example as the file gives them, with the batch axis."""
        found = self.stored_outputs(*inputs)
        return found[0] if len(found) == 1 else found

    def stored_outputs(self, *inputs: Any) -> list[np.ndarray]:
        """A list of all outputs for one example: see `stored`."""
        return self._stored(self.as_inputs(*inputs))

    def as_inputs(self, *inputs: Any) -> list[np.ndarray]:
        """One example as the file takes it: quantized, with the batch axis, in order."""
        given = self._in_order(inputs)
        return [self._batched(one, number) for number, one in enumerate(given)]

    def examples(self, inputs: Any) -> list[tuple]:
        """The arguments of a call for each example of a batch.

        Args:
            inputs: `(examples, …)`, or a tuple, list or dict of them for several inputs.
        """
        count = len(self.inputs)
        if isinstance(inputs, Mapping):
            arrays = {name: np.asarray(value) for name, value in inputs.items()}
            if count == len(arrays) == 1:
                return [(one,) for array in arrays.values() for one in array]
            length = common_length(arrays.values())
            return [({name: array[i] for name, array in arrays.items()},) for i in range(length)]
        columns = [
            np.asarray(one) for one in in_order(inputs, [""] * count, "inputs", single=count == 1)
        ]
        if not columns:
            return [()]
        return [tuple(column[i] for column in columns) for i in range(common_length(columns))]

    def quantize(self, example: Any, number: int = 0) -> np.ndarray:
        """An example of an input as the file takes it, with the batch axis.

        Args:
            example: The array, in real numbers.
            number: Which input. Default: the first.
        """
        # A runner of no file has the one `input`.
        detail = self.input if not number else self.inputs[number]
        assert detail is not None
        return self._as_input(np.asarray(example)[None], detail)

    def dequantize(self, output: np.ndarray, number: int = 0) -> np.ndarray:
        """Stored values of an output as real numbers.

        Args:
            output: The array, in the output's dtype.
            number: Which output. Default: the first.
        """
        detail = self.output if not number else self.outputs[number]
        assert detail is not None
        return self._real(output, detail)

    def _in_order(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """One array for each input, from arguments in order or a dict by name."""
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            given = inputs[0]
            places = [_find(given, name, detail) for name, detail in self._named_inputs()]
            if None in places or len(given) != len(self.inputs):
                raise ValueError(
                    f"{self.name}: `inputs` must be a dict of {', '.join(self.input_names)}. "
                    f"Received: {', '.join(map(str, given))}"
                )
            return [given[place] for place in places]
        if len(inputs) != len(self.inputs):
            raise ValueError(
                f"{self.name}: expected {len(self.inputs)} inputs"
                f"{self._listed_inputs()}. Received: {len(inputs)}"
            )
        return inputs

    def _named_inputs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return zip(self.input_names, self.inputs, strict=True)

    def _listed_inputs(self) -> str:
        names = ", ".join(name for name in self.input_names if name)
        return f" ({names})" if names else ""

    def _stored(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            changed = [n for n, value in enumerate(values) if value.shape != self._shapes[n]]
            for number in changed:
                index = self.inputs[number]["index"]
                self.interpreter.resize_tensor_input(index, values[number].shape, strict=True)
            if changed:
                with silenced():
                    self.interpreter.allocate_tensors()
                self._shapes = [value.shape for value in values]
            for value, detail in zip(values, self.inputs, strict=True):
                self.interpreter.set_tensor(detail["index"], value)
            self.interpreter.invoke()
            return [self.interpreter.get_tensor(detail["index"]) for detail in self.outputs]
        except (RuntimeError, ValueError) as error:
            for number in changed:
                self._shapes[number] = None  # allocate anew with the next example
            raise self._failure(error, " on this example") from None

    def _batched(self, example: Any, number: int) -> np.ndarray:
        """An example as the input's array, its batch axis included, if the file has one."""
        detail = self.inputs[number]
        try:
            value = np.asarray(example)
        except ValueError:
            value = np.asarray(None)
        if value.dtype.kind not in "biufc":
            raise ValueError(
                f"{self.name}: input {self._label(number)}: expected an array of numbers. "
                f"Received: {type(example).__name__} of dtype {value.dtype}"
            )
        shape = tuple(int(size) for size in detail["shape_signature"])
        shape = shape if len(shape) == len(detail["shape"]) else tuple(detail["shape"])
        batched = value[None]
        if not _fits(batched.shape, shape):
            # A file without a batch axis takes the example as it is.
            if shape[:1] in ((1,), (-1,)) or not _fits(value.shape, shape):
                expected = shape[1:] if shape[:1] in ((1,), (-1,)) else shape
                raise ValueError(
                    f"{self.name}: input {self._label(number)}: expected an example of shape "
                    f"{_shape_text(expected)}{_batch_text(shape)}. "
                    f"Received: {_shape_text(value.shape)}"
                )
            batched = value
        return self._as_input(batched, detail, number)

    def _label(self, number: int) -> str:
        name = self.input_names[number]
        return f"{number} ({name!r})" if name else str(number)

    def _as_input(
        self, value: np.ndarray, detail: Mapping[str, Any], number: int = 0
    ) -> np.ndarray:
        dtype = np.dtype(detail["dtype"])
        if dtype.kind in "fc":
            if value.dtype.kind == "c" and dtype.kind == "f":
                raise self._unfit(number, dtype, "complex numbers")
            return value.astype(dtype, copy=False)
        scale, zero_point = detail["quantization"]
        if dtype.kind in "iu" and scale:
            if value.dtype.kind == "c":
                raise self._unfit(number, dtype, "complex numbers")
            real = value.astype("float32", copy=False)
            if np.isnan(real).any():
                raise self._unfit(number, dtype, "NaN")
            limits = np.iinfo(dtype)
            levels = np.round(real / scale + zero_point)
            return np.clip(levels, limits.min, limits.max).astype(dtype)
        if value.dtype == dtype:
            return value
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        # Python's integers compare exactly with NumPy's of any width.
        if value.size and not (value.dtype.kind != "c" and np.all(np.isfinite(value))):
            raise self._unfit(number, dtype, "NaN, infinity or complex numbers")
        if value.dtype.kind == "f" and np.any(value != np.floor(value)):
            odd = value[value != np.floor(value)].flat[0]
            raise self._unfit(number, dtype, f"{odd}")
        if value.size and not (least <= int(value.min()) and int(value.max()) <= most):
            raise self._unfit(number, dtype, f"values from {value.min():g} to {value.max():g}")
        return value.astype(dtype)

    def _unfit(self, number: int, dtype: np.dtype, received: str) -> ValueError:
        expected = "bools, or 0 and 1" if dtype.kind == "b" else f"whole numbers of {dtype}"
        expected = "real numbers" if dtype.kind == "f" or received == "NaN" else expected
        return ValueError(
            f"{self.name}: input {self._label(number)}: expected {expected}. Received: {received}"
        )

    def _real(self, output: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
        dtype = np.dtype(detail["dtype"])
        if dtype.kind in "iu":
            scale, zero_point = detail["quantization"]
            if not scale:
                return output
            return (output.astype("float32") - zero_point) * np.float32(scale)
        return output.astype("float32") if dtype.kind == "f" else output

    def _without_batch(self, output: np.ndarray) -> np.ndarray:
        batched = any(shape and shape[0] == 1 for shape in self._shapes)
        return output[0] if batched and output.ndim and output.shape[0] == 1 else output

    def _signature(self) -> dict[str, dict[str, int]]:
        """`{"inputs": {name: tensor}, "outputs": …}` of the main graph, or nothing."""
        try:
            signatures = self.interpreter._get_full_signature_list()
        except (AttributeError, RuntimeError, ValueError):
            return {}
        indices = {detail["index"] for detail in self.inputs}
        for signature in signatures.values():
            if set(signature["inputs"].values()) == indices:
                return signature
        return {}

    def _failure(self, error: Exception, where: str = "") -> ExportError:
        reason = " ".join(str(error).split())
        if "TFLM_DECODE" in reason:
            reason = "one encoded for TFLite Micro, which LiteRT cannot run; take the plain file"
        return ExportError(
            f"{self.name}: expected a file that LiteRT runs{where}. Received: {reason}"
        )


def _names(details: Iterable[dict[str, Any]], signature: Mapping[str, int]) -> tuple[str, ...]:
    """Names of a file's inputs or outputs: the signature's, else the tensors' own."""
    by_index: dict[int, str] = {}
    for name, index in signature.items():
        by_index.setdefault(index, name)
    return tuple(by_index.get(detail["index"], _plain(detail["name"])) for detail in details)


def _plain(name: str) -> str:
    """A tensor's name without what the converter adds: `serving_default_x:0` is `x`."""
    return name.removeprefix(PREFIX).removesuffix(":0")


def _find(given: Mapping[str, Any], name: str, detail: Mapping[str, Any]) -> str | None:
    """The key of a dict that means an input, or `None`."""
    names = (name, detail["name"], _plain(detail["name"]))
    return next((key for key in names if key in given), None)


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether a shape is the expected one, where −1 stands for any size."""
    return len(shape) == len(expected) and all(
        size == wanted or (wanted == -1 and size > 0)
        for size, wanted in zip(shape, expected, strict=True)
    )


def _shape_text(shape: Sequence[int]) -> str:
    """A shape for a message, an open size as `any`."""
    sizes = ["any" if size == -1 else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def _batch_text(shape: Sequence[int]) -> str:
    if shape and shape[0] not in (1, -1):
        return f", for the file has no batch axis of 1 but {shape[0]}"
    return ""
