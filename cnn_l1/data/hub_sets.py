"""Data sets of the Hugging Face hub, by way of TFDS, which prepares them as its own.

`huggingface:NAME`, where NAME is the repository as the hub spells it, e.g. `ylecun/mnist`, and may
end with a configuration, `owner/repository/configuration`. They are prepared in a folder of their
own, for TFDS has other sets of the same names. Once prepared they need neither package nor network.
"""

import pathlib

import tensorflow_datasets as tfds

PREFIX = "huggingface:"
FOLDER = "huggingface"
PROBE = ("huggingface.co", 443)


def is_hub_name(name: str) -> bool:
    """Whether a data set's name is one of the hub."""
    return name.startswith(PREFIX) and all(name.removeprefix(PREFIX).split("/"))


def _parts(name: str) -> tuple[str, str | None]:
    """Repository and configuration."""
    owner, *rest = name.removeprefix(PREFIX).split("/", 2)
    return "/".join([owner, *rest[:1]]), rest[1] if rest[1:] else None


def prepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder | None:
    """The builder of a set that is prepared in a folder, of its latest version; else `None`."""
    repository, configuration = _parts(name)
    valid = tfds.core.utils.conversion_utils.to_tfds_name
    folder = pathlib.Path(data_dir) / FOLDER / valid(repository)
    if configuration is not None:
        folder /= valid(configuration)
    versions = [
        one
        for one in (folder.iterdir() if folder.is_dir() else ())
        if tfds.core.Version.is_valid(one.name) and (one / "dataset_info.json").is_file()
    ]
    if not versions:
        return None
    return tfds.builder_from_directory(max(versions, key=lambda one: tfds.core.Version(one.name)))


def unprepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder that fetches a set. Asks the hub."""
    from tensorflow_datasets.core.dataset_builders import huggingface_dataset_builder

    repository, configuration = _parts(name)
    # Not by `tfds.builder`, which reads the list of all sets of the hub to spell one name.
    return huggingface_dataset_builder.HuggingfaceDatasetBuilder(
        hf_repo_id=repository,
        hf_config=configuration,
        data_dir=str(pathlib.Path(data_dir) / FOLDER),
    )
