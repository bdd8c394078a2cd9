"""Our side of the benchmarks as a worker process: the requests of atlas_jax/apps/compare/ours.py, plus embedding and answering."""

import dataclasses
from typing import Any

import jax
import numpy as np

from atlas_jax import decoding, types
from atlas_jax.apps.compare import ours as compare_ours
from atlas_jax.index import embed
from atlas_jax.models import atlas
from atlas_jax.runtime import line_process, resources
from atlas_jax.steps import answer as answer_step
from atlas_jax.steps import spec as spec_lib
from atlas_jax.tokenizers.formats import Segment

_TABLE_WIDTH = 128  # rounded up to a multiple of this


class Side(compare_ours.JaxSide):
    """Answers `embed` and `answer` as well."""

    def embed(self, max_tokens: int, out: str | None = None) -> dict[str, float]:
        """Embeds `embed_ids` [n, width] with `embed_lengths` [n]; writes the embeddings as npy if asked."""
        if not hasattr(self, '_embedder'):
            # the passages bring their first and last token: the format adds nothing
            self._embedder = embed.PassageEmbedder(self._configs.retriever, self._params['retriever'], (Segment('text'),), max_tokens)
            self._table = _table(self._arrays['embed_ids'], self._arrays['embed_lengths'])
        found: list[np.ndarray] = []
        seconds = resources.timed(lambda: found.append(self._embedder.embed(self._table, np.arange(len(self._table.lengths)))))
        if out is not None:
            np.save(out, found[0])
        return seconds

    def answer(self, batch: int, n_context: int, max_length: int, beams: int, limit: int) -> dict[str, Any]:
        """Answers the queries of a batch from `index_embeddings`. Returns seconds, tokens, passages."""
        if not hasattr(self, '_answer'):
            self._prepare_answers(n_context, max_length, limit)
        if beams not in self._answer:
            self._answer[beams] = answer_step.make_answer_step(self._answer_spec, decoding.DecodingConfig(num_beams=beams))
        questions = self._questions(batch)
        found: list[Any] = []
        seconds = resources.timed(lambda: found.append(jax.device_get(self._answer[beams](self._params, questions, self._knowledge))))
        return seconds | {'tokens': found[0].tokens[:, 0].tolist(), 'passages': found[0].retrieved.passage_ids.tolist()}

    def serve(self) -> None:
        """Answers requests until standard input ends."""
        names = ('models', 'inputs', 'outputs', 'step', 'memory', 'embed', 'answer')
        line_process.serve({name: getattr(self, name) for name in names})

    def _prepare_answers(self, n_context: int, max_length: int, limit: int) -> None:
        arrays = self._arrays
        queries = arrays['query_ids'].shape[-1], arrays['reader_query_ids'].shape[-1]
        inputs = atlas.InputConfig(text_max_tokens=limit, query_max_tokens=max(queries), target_max_tokens=max_length - 1)
        reader, retriever = (dataclasses.replace(config, dropout_rate=0.0) for config in (self._configs.reader, self._configs.retriever))
        config = atlas.AtlasConfig(reader, retriever, inputs, n_context)
        segments = atlas.Segments((Segment('query'), Segment('text'), Segment('literal', (1,))), (), ())
        lengths = types.TokenLengths(arrays['table_lengths'], np.zeros(1, np.int64), arrays['reader_query_lengths'].reshape(-1))
        self._answer_spec = spec_lib.make_step_spec(config, segments, self._spec.mesh, lengths, arrays['query_ids'].shape[1],
                                               step=self._spec.step)
        index = types.IndexArrays(embeddings=arrays['index_embeddings'], valid=np.ones(len(arrays['index_embeddings']), bool))
        table = _table(arrays['table_ids'], arrays['table_lengths'])
        self._knowledge = jax.device_put(types.Knowledge(index=index, reader_table=table))
        self._params = jax.device_put(self._params)  # once, as in answering: 20 ms of 1.7 s otherwise, at every call
        self._answer: dict[int, answer_step.AnswerStep] = {}

    def _questions(self, number: int) -> types.Batch:
        arrays = {name: values[number] for name, values in self._arrays.items() if name.startswith(('query', 'reader_query', 'target'))}
        return jax.device_put(types.Batch(
            retriever_query_tokens=arrays['query_ids'], retriever_query_lengths=arrays['query_mask'].sum(axis=-1, dtype=np.int32),
            reader_query_tokens=arrays['reader_query_ids'], reader_query_lengths=arrays['reader_query_lengths'],
            decoder_target_tokens=arrays['target_ids'], decoder_loss_weights=arrays['target_mask'].astype(np.float32),
            example_ids=np.arange(len(arrays['query_ids']), dtype=np.int32)))


def _table(ids: np.ndarray, lengths: np.ndarray) -> types.TokenTable:
    width = -(-ids.shape[1] // _TABLE_WIDTH) * _TABLE_WIDTH
    return types.TokenTable(tokens=np.pad(ids, ((0, 0), (0, width - ids.shape[1]))).astype(np.uint16),
                            title_lengths=np.zeros(len(lengths), np.int32), lengths=lengths.astype(np.int32))


if __name__ == '__main__':
    Side().serve()
