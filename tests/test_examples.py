"""The examples do what their first lines say."""

import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from cnn_l1.export import firmware, tflite
from cnn_l1.measure import measurement
from cnn_l1.tflite import metadata

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
COMPILER = shutil.which("g++") or shutil.which("clang++")
LABELS = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A linear classifier of digits by their class means, in three types, with labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 255 / 16).astype("uint8")
    means = np.stack([images[digits.target == k].mean(axis=0).ravel() for k in range(10)]) / 255
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    # The nearest mean has the largest x·m − |m|²/2.
    model.layers[-1].kernel.assign(means.T)
    model.layers[-1].bias.assign(-np.square(means).sum(axis=1) / 2)
    folder = tmp_path_factory.mktemp("examples")
    samples = images[:200, ..., None].astype("float32")
    for io_type in ("float32", "int8", "uint8"):
        path = folder / f"{io_type}.tflite"
        if io_type == "float32":
            tflite.export_tflite(model, path)
        else:
            tflite.export_tflite(model, path, samples, io_type=io_type)
        texts = "digits", "pixels from 0 to 255", "logits", LABELS
        path.write_bytes(metadata.add_metadata(path.read_bytes(), *texts))
    bare = metadata.remove_metadata((folder / "int8.tflite").read_bytes())
    (folder / "bare.tflite").write_bytes(bare)
    Image.fromarray(images[0]).save(folder / "image.png")
    large = Image.fromarray(images[0]).resize((40, 40), Image.Resampling.NEAREST)
    large.convert("RGB").save(folder / "large.png")
    return folder, images[0]


def predict(folder, name, image="image.png"):
    command = [sys.executable, str(EXAMPLES / "predict_litert.py"), name, image]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    label, score = line.split()
    return label, float(score)


@pytest.mark.parametrize("name", ["float32", "int8", "uint8", "bare"])
def test_predict_litert(files, name):
    folder, image = files
    label, score = predict(folder, f"{name}.tflite")
    logits = measurement.TFLiteRunner(folder / f"{name}.tflite")(image[..., None]).astype("float64")
    chances = np.exp(logits) / np.exp(logits).sum()
    assert label == ("0" if name == "bare" else "nought") == ("0", LABELS[0])[name != "bare"]
    assert chances.argmax() == 0
    # The same numbers, printed with four digits.
    assert score == pytest.approx(chances.max(), abs=6e-5)


def test_predict_litert_fits_a_larger_image_in_colour(files):
    folder, _ = files
    label, score = predict(folder, "float32.tflite", "large.png")
    assert label == "nought"
    # Resizing smooths: the image is not the same, but nearly.
    assert score == pytest.approx(predict(folder, "float32.tflite")[1], abs=0.3)


# As much of TFLite Micro's interface as the example uses (tensorflow/tflite-micro,
# tensorflow/lite/micro/micro_interpreter.h and micro_mutable_op_resolver.h).
STUBS = {
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
#pragma once
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
class MicroOpResolver {};
template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  TfLiteStatus AddFullyConnected() { return kTfLiteOk; }
  TfLiteStatus AddMul() { return kTfLiteOk; }
  TfLiteStatus AddReshape() { return kTfLiteOk; }
};
}  // namespace tflite
""",
    "tensorflow/lite/schema/schema_generated.h": """
#pragma once
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { static Model model; return &model; }
}  // namespace tflite
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#pragma once
#include <cstddef>
#include <cstdint>
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
struct TfLiteTensor { union { std::int8_t* int8; } data; };
namespace tflite {
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, std::uint8_t*, std::size_t) {
    in_.data.int8 = values_;
    out_.data.int8 = values_ + 64;
  }
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  // In place of a network: output k is input k, but pixel 5 stands for class 7.
  TfLiteStatus Invoke() {
    for (int k = 0; k < 10; ++k) out_.data.int8[k] = k == 7 ? values_[5] : -128;
    return kTfLiteOk;
  }
  TfLiteTensor* input(std::size_t) { return &in_; }
  TfLiteTensor* output(std::size_t) { return &out_; }

 private:
  std::int8_t values_[74];
  TfLiteTensor in_, out_;
};
}  // namespace tflite
""",
}


@pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
def test_firmware_compiles_and_picks_the_largest(files, tmp_path):
    """Against stubs of TFLite Micro, whose sources are not here."""
    folder, _ = files
    shutil.copy(folder / "int8.tflite", tmp_path / "model_int8.tflite")
    firmware.write_c_source(tmp_path / "model_int8.tflite", tmp_path / "model_int8.h")
    for name, text in STUBS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti", "-Os"]
    sources = [str(EXAMPLES / "firmware" / "main.cc"), str(tmp_path / "model_int8.cc")]
    for pixel, expected in ((255, 7), (0, 0)):  # all equal: the first
        text = pathlib.Path(sources[0]).read_text(encoding="utf-8")
        camera = "  // to be filled by a camera"
        assert text.count(camera) == 1
        text = text.replace(camera, f"  pixels[5] = {pixel};")
        (tmp_path / "main.cc").write_text(text, encoding="utf-8")
        build = [COMPILER, *flags, f"-I{tmp_path}", str(tmp_path / "main.cc"), sources[1]]
        subprocess.run([*build, "-o", str(tmp_path / "classify")], check=True)
        done = subprocess.run([tmp_path / "classify"], capture_output=True, text=True, check=True)
        assert done.stdout == f"class {expected}\n"
