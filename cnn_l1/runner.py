"""Run a TFLite file in LiteRT's interpreter, on inputs as a Keras model takes them."""

import pathlib
from typing import Any

import numpy as np

from cnn_l1.silence import silenced
from cnn_l1.tflite_file import ExportError

# What the interpreter raises for files and inputs that it cannot run.
NATIVE_ERRORS = (RuntimeError, ValueError, TypeError, SystemError)


class TFLiteRunner:
    """Run a TFLite file on one example at a time, quantizing as the file asks.

    Inputs and outputs go by their order in the file, which for files of ours is the Keras
    model's. Quantized inputs and outputs are floats here; integers without a scale, such as
    camera frames or ids, stay as they are. A size that the file leaves open follows the
    example.

    Args:
        file: Path of the file, or its bytes.
        threads: Threads of the interpreter. Default 1.
        reference: Whether to run LiteRT's reference kernels, slow and plain, rather than
            the optimized ones. Default `False`.

    Attributes:
        inputs, outputs: The interpreter's details, in the file's order.

    Raises:
        ExportError: If LiteRT does not run the file.

    Example:
        >>> runner = TFLiteRunner("model_int8.tflite")
        >>> logits = runner(images[0])
    """

    def __init__(self, file: Any, threads: int = 1, reference: bool = False):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        is_content = isinstance(file, (bytes, bytearray))
        self.name = "The file" if is_content else pathlib.Path(file).name
        source = {"model_content": bytes(file)} if is_content else {"model_path": str(file)}
        try:
            with silenced():
                self.interpreter = Interpreter(
                    num_threads=threads, experimental_op_resolver_type=resolver, **source
                )
                # A size that is left open may be too small until an example sets it.
                self.allocated = not self._is_open()
                if self.allocated:
                    self.interpreter.allocate_tensors()
        except NATIVE_ERRORS as error:
            # E.g. int8 ranges of a network whose every output is 0.
            raise self._refusal(error) from None
        self._read_details()

    def _is_open(self) -> bool:
        details = self.interpreter.get_input_details()
        return any(-1 in one["shape_signature"] for one in details)

    def _read_details(self) -> None:
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()

    def _refusal(self, error: Exception) -> ExportError:
        reason = " ".join(str(error).split())
        if "TFLM_DECODE" in reason:
            return ExportError(
                f"{self.name}: expected a file that LiteRT runs. Received: one encoded for "
                "TFLite Micro; use the plain file here"
            )
        return ExportError(f"{self.name}: expected a file that LiteRT runs. Received: {reason}")

    @property
    def input(self) -> dict[str, Any]:
        """The details of the first input."""
        return self.inputs[0]

    @property
    def output(self) -> dict[str, Any]:
        """The details of the first output."""
        return self.outputs[0]

    def __call__(self, *inputs: Any) -> Any:
        """The outputs for one example.

        Args:
            inputs: One array an input of the file, without batch axis; or one list or
                tuple of them; or one dict by the inputs' names.

        Returns:
            One float32 array without batch axis, or a list of them where the file has
            several outputs. Integer and boolean outputs keep their type.
        """
        stored = self.run(*inputs)
        pairs = zip(stored, self.outputs, strict=True)
        values = [self.dequantize(array, details)[0] for array, details in pairs]
        return values[0] if len(values) == 1 else values

    def stored(self, *inputs: Any) -> np.ndarray:
        """The first output for one example as the file gives it, `(1, outputs)`."""
        return self.run(*inputs)[0]

    def run(self, *inputs: Any) -> list[np.ndarray]:
        """All outputs for one example as the file gives them, with its batch axis."""
        arrays = [
            self.quantize(array, details)
            for array, details in zip(self._in_order(inputs), self.inputs, strict=True)
        ]
        self._resize(arrays)
        try:
            for array, details in zip(arrays, self.inputs, strict=True):
                self.interpreter.set_tensor(details["index"], array)
            with silenced():
                self.interpreter.invoke()
            return [self.interpreter.get_tensor(details["index"]) for details in self.outputs]
        except NATIVE_ERRORS as error:
            raise self._refusal(error) from None

    def _in_order(self, inputs: tuple) -> list[Any]:
        given: Any = inputs
        if len(inputs) == 1 and isinstance(inputs[0], dict):
            by_name = inputs[0]
            known = self._signature_names()
            order = [known.get(details["index"], details["name"]) for details in self.inputs]
            tensors = [details["name"] for details in self.inputs]
            if set(tensors) <= set(by_name):
                order = tensors
            if not set(order) <= set(by_name):
                raise ValueError(
                    f"{self.name}: expected inputs named {', '.join(order)}. "
                    f"Received: {', '.join(map(str, by_name))}"
                )
            given = [by_name[name] for name in order]
        elif len(inputs) == 1 and len(self.inputs) > 1 and isinstance(inputs[0], (list, tuple)):
            given = inputs[0]
        if len(given) != len(self.inputs):
            raise ValueError(
                f"{self.name}: expected {len(self.inputs)} inputs. Received: {len(given)}"
            )
        return list(given)

    def _signature_names(self) -> dict[int, str]:
        """`{tensor: the model's name of it}` of the inputs, where the file tells."""
        signatures = self.interpreter.get_signature_list()
        if len(signatures) != 1:
            return {}
        key = next(iter(signatures))
        details = self.interpreter.get_signature_runner(key).get_input_details()
        return {int(value["index"]): name for name, value in details.items()}

    def _resize(self, arrays: list[np.ndarray]) -> None:
        """Let sizes that the file leaves open follow an example's."""
        changed = [
            (array, details)
            for array, details in zip(arrays, self.inputs, strict=True)
            if tuple(array.shape) != tuple(details["shape"])
        ]
        for array, details in changed:
            signature = tuple(details["shape_signature"])
            fits = len(signature) == array.ndim and all(
                size in (-1, given) for size, given in zip(signature, array.shape, strict=True)
            )
            if not fits:
                shape = tuple(int(size) for size in signature or details["shape"])
                raise ValueError(
                    f"{self.name}: expected an example of shape {shape[1:]} for input "
                    f"{details['name']!r}. Received: shape {tuple(array.shape[1:])}"
                )
        if not changed and self.allocated:
            return
        try:
            for array, details in changed:
                self.interpreter.resize_tensor_input(details["index"], array.shape, strict=True)
            with silenced():
                self.interpreter.allocate_tensors()
        except NATIVE_ERRORS as error:
            raise self._refusal(error) from None
        self.allocated = True
        self._read_details()

    def quantize(self, example: Any, details: dict[str, Any] | None = None) -> np.ndarray:
        """An example as the file's input, with a batch axis of 1.

        Args:
            example: Array without batch axis.
            details: Of the input. Default: the first.

        Raises:
            ValueError: If the input is of integers without a scale, and the example's
                values are none of its type.
        """
        details = self.input if details is None else details
        dtype = np.dtype(details["dtype"])
        batch = np.asarray(example)[None]
        if dtype.kind not in "iub":
            return batch.astype(dtype)
        scale, zero_point = details["quantization"]
        if scale:
            limits = np.iinfo(dtype)
            levels = np.round(batch.astype("float32") / scale + zero_point)
            return np.clip(levels, limits.min, limits.max).astype(dtype)
        stored = batch.astype(dtype)
        if not np.array_equal(stored, batch):
            raise ValueError(
                f"{self.name}: expected values of type {dtype} for input {details['name']!r}. "
                f"Received: {batch.dtype} from {batch.min()} to {batch.max()}"
            )
        return stored

    def dequantize(self, output: np.ndarray, details: dict[str, Any] | None = None) -> np.ndarray:
        """Stored outputs as float32; integers without a scale as they are.

        Args:
            output: As `run` gives it.
            details: Of the output. Default: the first.
        """
        details = self.output if details is None else details
        if output.dtype.kind not in "iub":
            return output.astype("float32")
        scale, zero_point = details["quantization"]
        if not scale:
            return output
        return (output.astype("float32") - zero_point) * np.float32(scale)
