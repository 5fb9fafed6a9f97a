"""One TFLite file: read, edit, write, run (LiteRT, TFLite Micro)."""
