"""Say what an image shows, with LiteRT: for a Raspberry Pi, a phone's Python, or a desktop.

    pip install ai-edge-litert numpy pillow
    python predict_litert.py model_int8.tflite image.png

Prints the label and the score, a probability by softmax. Labels come from the file itself.
"""

import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

path, image_path = sys.argv[1:]
interpreter = Interpreter(path)
interpreter.allocate_tensors()
source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
_, rows, cols, channels = source["shape"]
image = Image.open(image_path).convert("L" if channels == 1 else "RGB").resize((cols, rows))
pixels = np.asarray(image, np.float32).reshape(1, rows, cols, channels)  # 0 to 255
scale, zero_point = source["quantization"]
if scale:  # else the input takes the pixels as they are
    limits = np.iinfo(source["dtype"])
    pixels = np.clip(np.round(pixels / scale + zero_point), limits.min, limits.max)
interpreter.set_tensor(source["index"], pixels.astype(source["dtype"]))
interpreter.invoke()
logits = interpreter.get_tensor(target["index"])[0].astype(np.float64)
scale, zero_point = target["quantization"]
if scale:
    logits = (logits - zero_point) * scale
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
labels = [str(number) for number in range(len(scores))]
if zipfile.is_zipfile(path):  # metadata follow the model as a zip archive
    with zipfile.ZipFile(path) as archive:
        if "labels.txt" in archive.namelist():
            labels = archive.read("labels.txt").decode().splitlines()
print(f"{labels[scores.argmax()]} {scores.max():.4f}")
