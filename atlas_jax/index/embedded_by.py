"""The record of all that embeddings of passages depend on, and its comparison with a model.

The passages' token ids are not in it: the store has a fingerprint of its own. Neither is anything of queries, so that a model whose passage
encoder stays as it is may use its index while the encoder of queries is trained.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class EmbeddedBy:
    """A passage encoder as far as its embeddings depend on it.

    weights         fingerprint of the encoder's sizes and parameters
    dtype           of its activations
    pooling         as in ContrieverConfig
    normalize       as in ContrieverConfig
    dim             numbers in an embedding
    passage_format  text of the format with the retriever's prompt; for people, since other spaces give the same tokens
    passage_tokens  the format in tokens, `[101, "title", "text", 102]` as JSON
    max_tokens      limit of a passage, special tokens included; counts where it cuts one
    """

    weights: str
    dtype: str
    pooling: str
    normalize: bool
    dim: int
    passage_format: str
    passage_tokens: str
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with every field but the format's text."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if name != 'passage_format'}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, model: 'EmbeddedBy', longest: Callable[[], int], limits: bool = True) -> list[str]:
        """Returns what a model does otherwise, one field a text with both values.

        Args:
          model: the record of the model.
          longest: counts the tokens of the longest passage; asked only where the limits differ.
          limits: whether max_tokens is compared.
        """
        found = []
        for field in dataclasses.fields(self):
            ours, theirs = getattr(self, field.name), getattr(model, field.name)
            if field.name == 'passage_tokens' or ours == theirs:
                continue
            if field.name == 'passage_format':
                # Its tokens decide, and its text tells a reader why.
                if self.passage_tokens == model.passage_tokens:
                    continue
                ours, theirs = _shown(ours), _shown(theirs)
            # Limits above the longest passage cut nothing.
            if field.name == 'max_tokens' and (not limits or longest() <= min(ours, theirs)):
                continue
            found.append(f'{field.name} (index {ours}, this model {theirs})')
        # The same text in other tokens: another tokenizer.
        if self.passage_format == model.passage_format and self.passage_tokens != model.passage_tokens:
            found.append(f'passage_tokens (index {_shown(self.passage_tokens)}, this model {_shown(model.passage_tokens)})')
        return found


class Embedder(Protocol):
    """A passage encoder that is compared with an index. index/embed.PassageEmbedder is one."""

    @property
    def record(self) -> EmbeddedBy: ...

    def old_limit(self, fingerprint: str) -> int | None:
        """Returns the limit with which this encoder had `fingerprint` before indexes kept records; None where it never had."""
        ...


def _shown(text: str) -> str:
    # As JSON: a message is one line.
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= 120 else f'{shown[:120]}…'


def from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, EmbeddedBy]:
    """Reads records by fingerprint. Raises TypeError: a field is unknown or missing."""
    return {fingerprint: EmbeddedBy(**record) for fingerprint, record in values.items()}


def mismatch(fingerprint: str, records: Mapping[str, EmbeddedBy], embedder: Embedder, longest: Callable[[], int],
             limits: bool = True) -> str | None:
    """Tells how rows were embedded otherwise than `embedder` would; None where it would give the same embeddings.

    Args:
      fingerprint: of the model that embedded the rows.
      records: of the index, by fingerprint; indexes from before have none.
      embedder: the model to compare with.
      longest: counts the tokens of the longest of these passages, as the model sees it.
      limits: whether max_tokens is compared.
    """
    model = embedder.record
    if fingerprint == model.fingerprint:
        return None
    record = records.get(fingerprint)
    if record is None:
        limit = embedder.old_limit(fingerprint)
        if limit is None:
            return f'fingerprint (index {fingerprint}, this model {model.fingerprint}; the index is too old to tell more)'
        record = dataclasses.replace(model, max_tokens=limit)
    return ', '.join(record.differences(model, longest, limits)) or None
