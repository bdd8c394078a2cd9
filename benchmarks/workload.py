"""The workload of the benchmarks: models of four sizes, and tokens with the lengths of the demo's real corpus (lengths.json)."""

import dataclasses
import json
import pathlib

import numpy as np

LENGTHS = json.loads(pathlib.Path(__file__).with_name('lengths.json').read_text(encoding='utf-8'))
LIMIT = 200  # tokens of a reader input or a retriever passage: the original's default text_maxlength
TARGET_WIDTH = 16

_T5 = {
    'tiny': {'vocab_size': 211, 'emb_dim': 24, 'num_heads': 2, 'head_dim': 8, 'mlp_dim': 32, 'num_encoder_layers': 2,
             'num_decoder_layers': 2},
    'small': {'vocab_size': 32128, 'emb_dim': 512, 'num_heads': 6, 'head_dim': 64, 'mlp_dim': 1024, 'num_encoder_layers': 8,
              'num_decoder_layers': 8},
    'base': {'vocab_size': 32128, 'emb_dim': 768, 'num_heads': 12, 'head_dim': 64, 'mlp_dim': 2048, 'num_encoder_layers': 12,
             'num_decoder_layers': 12},
    'large': {'vocab_size': 32128, 'emb_dim': 1024, 'num_heads': 16, 'head_dim': 64, 'mlp_dim': 2816, 'num_encoder_layers': 24,
              'num_decoder_layers': 24},
}
_BERT = {
    'tiny': {'vocab_size': 199, 'emb_dim': 24, 'num_heads': 2, 'num_layers': 2, 'mlp_dim': 32},
    'small': {'emb_dim': 384, 'num_heads': 12, 'num_layers': 6, 'mlp_dim': 1536},
    'base': {}, 'large': {},  # Contriever
}
SIZES = tuple(_T5)
# (batch, n_context) of the joint step
STEP_SHAPES = {'tiny': (2, 3), 'small': (4, 10), 'base': (1, 10), 'large': (1, 5)}


@dataclasses.dataclass(frozen=True)
class Workload:
    """Folders of the models, and their vocabulary sizes."""

    reader: str
    retriever: str
    reader_vocab: int
    retriever_vocab: int


def models(size: str, work: pathlib.Path, given: str | None = None) -> Workload:
    """Returns models with random weights, written to `work` once; or those in the folders `reader` and `retriever` of `given`."""
    if given is not None:
        folders = [pathlib.Path(given) / name for name in ('reader', 'retriever')]
        return Workload(*map(str, folders), *(json.loads((folder / 'config.json').read_text())['vocab_size'] for folder in folders))
    import flax.linen as nn
    import jax

    from atlas_jax.conversion import hf
    from atlas_jax.models import contriever, t5
    configs = {'reader': t5.T5Config(**_T5[size]), 'retriever': contriever.ContrieverConfig(**_BERT[size])}
    for name, write, init in (('reader', hf.write_params, t5.init_params), ('retriever', hf.write_params, contriever.init_params)):
        if not (work / size / name / 'config.json').is_file():
            params = jax.jit(lambda key, init=init, name=name: nn.unbox(init(configs[name], key)))(jax.random.key(0))
            write(work / size / name, configs[name], jax.device_get(params))
    return Workload(str(work / size / 'reader'), str(work / size / 'retriever'), *(config.vocab_size for config in configs.values()))


def step_arrays(workload: Workload, batch: int, n_context: int, batches: int, seed: int = 0, passage_scale: float = 1.0,
                limit: int = LIMIT) -> dict[str, np.ndarray]:
    """Returns random tokens of real lengths for `batches` joint steps, in the layout of atlas_jax/apps/compare/token_arrays.py.

    Args:
      passage_scale: multiplies the passages' lengths.
      limit: most tokens of a reader input and of a retriever passage.
    """
    generator = np.random.default_rng(seed)
    passages = np.asarray(LENGTHS['passages'])[generator.integers(len(LENGTHS['passages']), size=(batches, batch, n_context))]
    queries = np.asarray(LENGTHS['queries'])[generator.integers(len(LENGTHS['queries']), size=(batches, batch))]
    targets = np.asarray(LENGTHS['targets'])[generator.integers(len(LENGTHS['targets']), size=(batches, batch))]
    scaled = np.maximum(np.round(passages * passage_scale), 1).astype(np.int64)
    reader = np.minimum(scaled[..., 0] + queries[..., None, 0] + LENGTHS['format_tokens'], limit)
    arrays: dict[str, np.ndarray] = {}
    for name, lengths, vocab in (('reader', reader, workload.reader_vocab),
                                 ('passage', np.minimum(scaled[..., 1] + 2, min(limit, 512)), workload.retriever_vocab),
                                 ('query', queries[..., 1], workload.retriever_vocab),
                                 ('target', np.minimum(targets, TARGET_WIDTH), workload.reader_vocab)):
        width = TARGET_WIDTH if name == 'target' else int(lengths.max())
        arrays[f'{name}_ids'], arrays[f'{name}_mask'] = rows(lengths, width, vocab, generator)
    start = np.zeros_like(arrays['target_ids'][..., :1])
    arrays['decoder_input_ids'] = np.concatenate([start, arrays['target_ids'][..., :-1]], axis=-1)
    return arrays


def answer_arrays(workload: Workload, dim: int, batch: int, batches: int, passages: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns queries in both models' tokens, and `passages` passages with random embeddings, to search, read and answer from.

    Besides the arrays of `step_arrays`: reader_query_ids and reader_query_lengths, table_ids and table_lengths, index_embeddings.
    """
    generator = np.random.default_rng(seed)
    arrays = step_arrays(workload, batch, 1, batches, seed)
    queries = np.asarray(LENGTHS['queries'])[generator.integers(len(LENGTHS['queries']), size=(batches, batch)), 0]
    lengths = np.asarray(LENGTHS['passages'])[generator.integers(len(LENGTHS['passages']), size=passages), 0]
    arrays['reader_query_ids'], _ = rows(queries, int(queries.max()), workload.reader_vocab, generator)
    arrays['table_ids'], _ = rows(lengths, int(lengths.max()), workload.reader_vocab, generator)
    arrays |= {'reader_query_lengths': queries.astype(np.int32), 'table_lengths': lengths.astype(np.int32)}
    arrays['index_embeddings'] = generator.standard_normal((passages, dim)).astype(np.float32)
    return arrays


def embed_arrays(workload: Workload, passages: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns `passages` retriever passages, [CLS] and [SEP] included: embed_ids and embed_lengths (and one step's arrays)."""
    generator = np.random.default_rng(seed)
    lengths = np.asarray(LENGTHS['passages'])[generator.integers(len(LENGTHS['passages']), size=passages), 1]
    lengths = np.minimum(lengths + 2, LIMIT)
    ids, _ = rows(lengths, int(lengths.max()), workload.retriever_vocab, generator)
    return {**step_arrays(workload, 1, 1, 1, seed), 'embed_ids': ids, 'embed_lengths': lengths.astype(np.int32)}


def rows(lengths: np.ndarray, width: int, vocab: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns random token rows of these lengths, and their mask; ids start at 3."""
    mask = np.arange(width) < lengths[..., None]
    ids = np.where(mask, generator.integers(3, vocab, mask.shape), 0)
    return ids.astype(np.int32), mask.astype(np.int32)
