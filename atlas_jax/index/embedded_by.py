"""The record of everything that passage embeddings depend on, and its comparison with a model.

The record leaves out the passages' token ids, because the store has its own fingerprint. It also
leaves out everything about queries: a model may train its query encoder and keep its index.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Protocol

from atlas_jax.io import schema

_Format = Annotated[str, schema.Text(r'[^\x00]{0,10000}', 'the text of a format')]


@dataclasses.dataclass(frozen=True)
class EmbeddedBy:
    """The parts of a passage encoder that change embeddings.

    weights             fingerprint of the encoder's sizes and parameters
    dtype               type of the activations
    pooling, normalize  fields of ContrieverConfig
    dim                 numbers in an embedding
    passage_format      text of the format with the retriever's prompt, for people; other spaces may
                        give the same tokens
    passage_tokens      the format in tokens, `[101, "title", "text", 102]` as JSON
    max_tokens          limit of a passage, special tokens included; matters if it cuts a passage
    """

    weights: str
    dtype: str
    pooling: str
    normalize: bool
    dim: Annotated[int, schema.Integer(1, 2**24)]
    passage_format: _Format
    passage_tokens: _Format
    max_tokens: Annotated[int, schema.Integer(2)]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with every field except the format's text."""
        values = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name != 'passage_format'}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, model: 'EmbeddedBy', longest: Callable[[], int],
                    limits: bool = True) -> list[str]:
        """Returns one text with both values for each field in which a model differs.

        Args:
          model: the record of the model.
          longest: counts the tokens of the longest passage; called only if the limits differ.
          limits: compares max_tokens too.
        """
        found = []
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(model, field.name)
            if field.name == 'passage_tokens' or ours == theirs:
                continue
            if field.name == 'passage_format':
                # The tokens decide; the text explains the difference to a reader.
                if self.passage_tokens == model.passage_tokens:
                    continue
                ours, theirs = _shown(ours), _shown(theirs)
            # Limits above the longest passage cut nothing.
            if field.name == 'max_tokens' and (not limits or longest() <= min(ours, theirs)):
                continue
            found.append(f'{field.name} (index {ours}, this model {theirs})')
        # The same text gives other tokens if the tokenizer differs.
        ours, theirs = self.passage_tokens, model.passage_tokens
        if self.passage_format == model.passage_format and ours != theirs:
            found.append(f'passage_tokens (index {_shown(ours)}, this model {_shown(theirs)})')
        return found


class Embedder(Protocol):
    """A passage encoder that is compared with an index. index/embed.PassageEmbedder is one."""

    @property
    def record(self) -> EmbeddedBy: ...

    def old_limit(self, fingerprint: str) -> int | None:
        """Returns the limit with which this encoder had `fingerprint` before indexes kept records;
        None if it never had this fingerprint.
        """
        ...


def _shown(text: str) -> str:
    # As JSON: a message is one line.
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= 120 else f'{shown[:120]}…'


def mismatch(fingerprint: str, records: Mapping[str, EmbeddedBy], embedder: Embedder,
             longest: Callable[[], int], limits: bool = True) -> str | None:
    """Returns how the model that embedded some rows differs from `embedder`; None if both give the
    same embeddings.

    Args:
      fingerprint: fingerprint of the model that embedded the rows.
      records: the index's records by fingerprint; older indexes have none.
      embedder: the model to compare with.
      longest: counts the tokens of the longest of these passages, as the model sees it.
      limits: compares max_tokens too.
    """
    model = embedder.record
    if fingerprint == model.fingerprint:
        return None
    record = records.get(fingerprint)
    if record is None:
        limit = embedder.old_limit(fingerprint)
        if limit is None:
            return (f'fingerprint (index {fingerprint}, this model {model.fingerprint}; the index '
                    'is too old to tell more)')
        record = dataclasses.replace(model, max_tokens=limit)
    return ', '.join(record.differences(model, longest, limits)) or None
