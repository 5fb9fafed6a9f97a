// One image through the network, on a microcontroller, with TFLite Micro.
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "model_int8.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {
// report.json has what this file needs as ram_bytes, with measure.ram: true.
#ifndef ARENA_BYTES
#define ARENA_BYTES (16 * 1024)
#endif
alignas(16) std::uint8_t arena[ARENA_BYTES];

std::int8_t Quantize(float pixel) {
  const float level = std::round(pixel / model_input_scale) + model_input_zero_point;
  return static_cast<std::int8_t>(std::fmin(127.0f, std::fmax(-128.0f, level)));
}
}  // namespace

// The class of an image, pixels from 0 to 255 row by row; -1 if the network does not run.
int Classify(const std::uint8_t* pixels) {
  static tflite::MicroMutableOpResolver<model_operator_count> resolver;
  static const bool known = model_add_operators(resolver);
  static tflite::MicroInterpreter interpreter(tflite::GetModel(model_data), resolver, arena,
                                              sizeof(arena));
  static const bool ready = known && interpreter.AllocateTensors() == kTfLiteOk;
  if (!ready) return -1;
  std::int8_t* input = interpreter.input(0)->data.int8;
  for (std::size_t i = 0; i < model_input_count; ++i) input[i] = Quantize(pixels[i]);
  if (interpreter.Invoke() != kTfLiteOk) return -1;
  const std::int8_t* logits = interpreter.output(0)->data.int8;
  int best = 0;
  for (std::size_t i = 1; i < model_output_count; ++i) {
    if (logits[i] > logits[best]) best = static_cast<int>(i);
  }
  return best;
}

int main() {
  static std::uint8_t pixels[model_input_count];  // to be filled by a camera
  std::printf("class %d\n", Classify(pixels));
  return 0;
}
