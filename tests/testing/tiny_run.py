"""A tiny model with an index of made-up things and colours, and questions about them: what whole runs are tested on."""

import dataclasses
import json
import pathlib
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest

from atlas_jax.answering import api
from atlas_jax.corpus import documents as documents_lib
from atlas_jax.model import RetrieverModel
from atlas_jax.models import atlas as atlas_lib
from atlas_jax.models import contriever
from atlas_jax.nn import layer_scan
from atlas_jax.runtime import hosts
from atlas_jax.tasks import qa
from atlas_jax.tasks.task import TaskExample
from atlas_jax.training import train_step
from tests.testing import tiny, word_tokenizers

COLOURS = ['red', 'green', 'blue', 'white', 'black', 'grey', 'pink']


def atlas(dropout_rate: float = 0.1, mesh: jax.sharding.Mesh | None = None) -> api.Atlas:
    """The model, with random weights that are the same every time."""
    reader_tokenizer, retriever_tokenizer = word_tokenizers.t5(), word_tokenizers.bert()
    config = atlas_lib.AtlasConfig(
        dataclasses.replace(tiny.READER, vocab_size=reader_tokenizer.vocab_size, dropout_rate=dropout_rate),
        dataclasses.replace(tiny.RETRIEVER, vocab_size=retriever_tokenizer.vocab_size, dropout_rate=dropout_rate),
        atlas_lib.InputConfig(text_max_tokens=40, retriever_max_tokens=40, query_max_tokens=16, target_max_tokens=4), n_context=2)
    params = jax.device_get(nn.unbox(jax.jit(tiny.init_params, static_argnums=0)(config, jax.random.key(0))))
    return api.Atlas(config, params, reader_tokenizer, retriever_tokenizer, qa.QATask('{question}', '{target}'), mesh)


def index(model: api.Atlas, folder: pathlib.Path) -> api.Index:
    """23 things and their colours; several processes may call it together."""
    documents = [documents_lib.Document(f'd{i}', f'thing {i}', '', f'The thing {i} is {COLOURS[i % 7]} .') for i in range(23)]
    with hosts.together():
        if hosts.is_first():
            api.PassageStore.build(documents, folder / 'store', progress=False)
    store = api.PassageStore.open(folder / 'store')
    return api.Index.build(store, model, folder / 'index', show_progress=False)


def examples(model: api.Atlas, count: int = 11) -> list[TaskExample]:
    """Questions about the first so many things."""
    return [model.task.example(row, i) for i, row in enumerate(rows(count))]


def rows(count: int = 11) -> list[dict]:
    """The questions as rows of a file."""
    return [{'question': f'what is thing {i} ?', 'answers': [COLOURS[i % 7]], 'gold_docids': [f'd{i}']} for i in range(count)]


def retriever(dropout_rate: float = 0.1) -> RetrieverModel:
    """A retriever of one layer to train alone, with random weights that are the same every time."""
    tokenizer = word_tokenizers.bert()
    config = dataclasses.replace(tiny.RETRIEVER, vocab_size=tokenizer.vocab_size, num_layers=1, dropout_rate=dropout_rate)
    params = {'retriever': layer_scan.stack_layers(tiny.init(contriever.init_params, config))}
    return RetrieverModel(atlas_lib.RetrieverConfig(config), params, tokenizer)


def write_passages(path: pathlib.Path, count: int = 9) -> None:
    """Writes passages of 20 words and more to take crops of."""
    generator = np.random.default_rng(0)
    words = ['the', 'thing', 'is', *COLOURS]
    path.write_text(''.join(json.dumps({'title': f'thing {i}', 'text': ' '.join(generator.choice(words, 20 + i))}) + '\n'
                            for i in range(count)))


def stop_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Sends SIGTERM while the step of this number is handed to the devices, counted from the start of the process's run."""
    make = train_step.make_train_step

    def making(*arguments):
        step, calls = make(*arguments), []

        def run(*inputs):
            calls.append(1)
            if len(calls) == number:
                signal.raise_signal(signal.SIGTERM)
            return step(*inputs)
        return run

    patch.setattr(train_step, 'make_train_step', making)
