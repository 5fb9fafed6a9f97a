"""Print the JSON schema of the config files: `python -m cnn_l1.config`."""

from cnn_l1.config.loading import json_schema

if __name__ == "__main__":
    print(json_schema(), end="")
