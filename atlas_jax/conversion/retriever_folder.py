"""The files that sentence-transformers adds to a BERT folder: modules, pooling, normalisation,
prompts, limit, similarity.
"""

import dataclasses
import pathlib
from typing import Any

from atlas_jax import errors
from atlas_jax.conversion import hf_files, known_keys
from atlas_jax.io import atomic, untrusted

MODULES_FILE, PROMPTS_FILE = 'modules.json', 'config_sentence_transformers.json'
_TRANSFORMER_FILE = 'sentence_bert_config.json'
# The library's names for the transformer's settings, current and old; the first that exists counts.
_TRANSFORMER_FILES = (_TRANSFORMER_FILE, *(f'sentence_{kind}_config.json'
                                           for kind in ('roberta', 'distilbert', 'camembert',
                                                        'albert', 'xlm-roberta', 'xlnet')))
_TOKENIZER_FILE = 'tokenizer_config.json'
# Our pooling by sentence-transformers' current name. Its older files have a switch for each.
_POOLINGS = {
    'mean': 'average', 'mean_sqrt_len_tokens': 'sqrt', 'cls': 'cls', 'max': 'max',
    'lasttoken': 'last', 'weightedmean': 'weighted'}
_SWITCHES = {
    'pooling_mode_mean_tokens': 'mean', 'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
    'pooling_mode_cls_token': 'cls', 'pooling_mode_max_tokens': 'max',
    'pooling_mode_lasttoken': 'lasttoken', 'pooling_mode_weightedmean_tokens': 'weightedmean'}
_KINDS = ('Transformer', 'Pooling', 'Normalize')
# Names of the passages' prompt, in the library's order of preference.
_PASSAGE_NAMES = ('document', 'passage', 'corpus')


@dataclasses.dataclass(frozen=True)
class RetrieverDescription:
    """The settings of a retriever's folder.

    Attributes:
      bert_folder: folder with config.json and the weights.
      pooling, normalize: see ContrieverConfig; None if modules.json does not state them.
      truncate_dim, max_tokens, query_prompt, passage_prompt: see ContrieverConfig.
    """

    bert_folder: pathlib.Path
    pooling: str | None = None
    normalize: bool | None = None
    truncate_dim: int | None = None
    max_tokens: int | None = None
    query_prompt: str = ''
    passage_prompt: str = ''


@dataclasses.dataclass(frozen=True)
class _Prompts:
    """Settings of config_sentence_transformers.json."""

    query: str = ''
    passage: str = ''
    similarity: str | None = None
    truncate_dim: int | None = None


def describe(folder: pathlib.Path) -> RetrieverDescription:
    """Reads the settings of a sentence-transformers folder. A folder without modules.json is a
    plain BERT folder.

    Raises:
      ModelFolderError: a file is broken or has an unsupported setting; names the key.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        if (folder / PROMPTS_FILE).is_file():
            raise errors.ModelFolderError(f'{folder}: has {PROMPTS_FILE} but no {MODULES_FILE}, '
                                          'which tells how to pool; copy the folder again')
        return RetrieverDescription(folder)
    places = _module_folders(path)
    bert_folder, prompts = places['Transformer'], _read_prompts(folder / PROMPTS_FILE)
    has_prompts = bool(prompts.query or prompts.passage)
    pooling = _read_pooling(places['Pooling'] / 'config.json', has_prompts)
    if 'Normalize' in places and (places['Normalize'] / 'config.json').is_file():
        options = places['Normalize'] / 'config.json'
        known_keys.check(options, hf_files.read_object(options), known_keys.NORMALIZE)
    # Searches use the inner product, which equals the cosine for normalised embeddings.
    normalize = 'Normalize' in places or prompts.similarity == 'cosine'
    return RetrieverDescription(bert_folder, pooling, normalize, prompts.truncate_dim,
                                _read_limit(bert_folder), prompts.query, prompts.passage)


def write(folder: pathlib.Path, description: RetrieverDescription, emb_dim: int) -> None:
    """Writes the settings for sentence-transformers beside a BERT's own files. Ignores
    `bert_folder`.

    Raises DiskFullError.
    """
    # All modes are written, even false ones: in sentence-transformers a missing mean mode is true.
    mode = next(name for name, ours in _POOLINGS.items() if ours == description.pooling)
    atomic.write_json(
        folder / '1_Pooling' / 'config.json', {
            'word_embedding_dimension': emb_dim,
            **{switch: name == mode for switch, name in _SWITCHES.items()}, 'include_prompt': True})
    # sentence-transformers' own names of the folders; the Transformer lies in the root, so that
    # transformers loads the folder too.
    parts = [('Transformer', ''), ('Pooling', '1_Pooling')]
    if description.normalize:
        parts.append(('Normalize', '2_Normalize'))
    atomic.write_json(folder / _TRANSFORMER_FILE,
                      {'max_seq_length': description.max_tokens, 'do_lower_case': False})
    options: dict[str, Any] = {
        'prompts': {'query': description.query_prompt, 'document': description.passage_prompt},
        'default_prompt_name': None,
        'similarity_fn_name': 'cosine' if description.normalize else 'dot'}
    if description.truncate_dim is not None:
        options['truncate_dim'] = description.truncate_dim
    atomic.write_json(folder / PROMPTS_FILE, options)
    modules = [{'idx': i, 'name': str(i), 'path': path,
                'type': f'sentence_transformers.models.{kind}'}
               for i, (kind, path) in enumerate(parts)]
    # Last: this file distinguishes the folder from a plain BERT's.
    atomic.write_json(folder / MODULES_FILE, modules)


def _module_folders(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folder of each module by its kind: Transformer, Pooling and perhaps Normalize."""
    modules = hf_files.read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise errors.ModelFolderError(f'{path}: expected a list of objects; copy the folder again')
    places: dict[str, pathlib.Path] = {}
    for module in modules:
        known_keys.check(path, module, known_keys.MODULE)
        # `type` is a class path, which differs between versions. Another package's class may
        # compute anything.
        package, _, kind = str(module.get('type')).rpartition('.')
        if kind not in _KINDS or package.split('.')[0] != 'sentence_transformers':
            raise errors.ModelFolderError(f'{path}: module type {str(module.get("type"))!r} is not '
                                          'supported; a retriever is a Transformer, a Pooling and '
                                          'perhaps a Normalize')
        # `path` is '' if the files lie in the folder itself.
        name = module.get('path', '')
        try:
            places[kind] = path.parent if name == '' else untrusted.inside(path.parent, name)
        except ValueError as error:
            raise errors.ModelFolderError(
                f'{path}: module {kind}: {error}; copy the folder again') from error
    kinds = [str(module['type']).rpartition('.')[2] for module in modules]
    if kinds not in (list(_KINDS[:2]), list(_KINDS)):
        raise errors.ModelFolderError(f'{path}: its modules are {", ".join(kinds) or "none"}; only '
                                      'Transformer, Pooling and perhaps Normalize, in this order, '
                                      'are supported')
    return places


def _read_pooling(path: pathlib.Path, has_prompts: bool) -> str:
    options = hf_files.read_object(path)
    known_keys.check(path, options, known_keys.POOLING)
    if 'pooling_mode' in options:
        given = options['pooling_mode']
        found = list(given) if isinstance(given, list | tuple) else [given]
    else:
        found = [_SWITCHES[key] for key, on in options.items() if key in _SWITCHES and on is True]
    # sentence-transformers concatenates the results of several modes; a Contriever has one.
    if len(found) != 1 or found[0] not in _POOLINGS:
        modes = ', '.join(map(str, found)) or 'not set'
        raise errors.ModelFolderError(f'{path}: pooling_mode is {modes}; expected exactly one of '
                                      f'{", ".join(_POOLINGS)}')
    if has_prompts and options.get('include_prompt', True) is not True:
        raise errors.ModelFolderError(f'{path}: include_prompt is {options["include_prompt"]}; '
                                      'pooling without the tokens of the prompt is not supported')
    return _POOLINGS[found[0]]


def check_width(folder: pathlib.Path, emb_dim: int) -> None:
    """Checks that a sentence-transformers folder pools states of `emb_dim` numbers.

    Raises ModelFolderError.
    """
    if not (folder / MODULES_FILE).is_file():
        return
    path = _module_folders(folder / MODULES_FILE)['Pooling'] / 'config.json'
    options = hf_files.read_object(path)
    for key in ('word_embedding_dimension', 'embedding_dimension'):
        if options.get(key, emb_dim) != emb_dim:
            raise errors.ModelFolderError(f'{path}: {key} is {options[key]!r}, but the states have '
                                          f'{emb_dim} numbers; copy the folder again')


def _read_limit(folder: pathlib.Path) -> int | None:
    """Returns the limit of an input in tokens; None if no file states one."""
    limit = None
    path = next(
        (file for name in _TRANSFORMER_FILES if (file := untrusted.inside(folder, name)).is_file()),
        None)
    tokenizer_path = folder / _TOKENIZER_FILE
    tokenizer = hf_files.read_object(tokenizer_path, optional=True)
    if path is not None:
        options = hf_files.read_object(path)
        known_keys.check(path, options, known_keys.SENTENCE_BERT)
        for name in known_keys.LOADERS:
            if arguments := options.get(name):
                if not isinstance(arguments, dict):
                    arguments = {str(arguments): arguments}
                known_keys.check(f'{path}: {name}', arguments, known_keys.LOADER_ARGUMENTS)
        # The library lower-cases before the tokenizer does. If both do, nothing changes.
        if options.get('do_lower_case') and not tokenizer.get('do_lower_case', True):
            raise errors.ModelFolderError(f'{path}: do_lower_case is true, though '
                                          f'{_TOKENIZER_FILE} says false; set both to the same '
                                          'value')
        limit = _limit(path, options, 'max_seq_length')
    # Newer folders state the limit here. transformers writes 1e30 for no limit.
    return _limit(tokenizer_path, tokenizer, 'model_max_length') if limit is None else limit


def _limit(path: pathlib.Path, options: dict[str, Any], key: str) -> int | None:
    value = options.get(key)
    if value is None or (isinstance(value, int | float) and value >= 1e9):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise errors.ModelFolderError(f'{path}: {key} is {value!r}, expected an integer of at '
                                      'least 2')
    return value


def _read_prompts(path: pathlib.Path) -> _Prompts:
    if not path.is_file():
        return _Prompts()
    options = hf_files.read_object(path)
    known_keys.check(path, options, known_keys.SENTENCE_TRANSFORMERS)
    prompts = options.get('prompts') or {}
    if not isinstance(prompts, dict) or not all(
            isinstance(text, str | None) for text in prompts.values()):
        raise errors.ModelFolderError(f'{path}: prompts is {prompts!r}, expected an object of '
                                      'texts')
    default = options.get('default_prompt_name')
    if default is not None and default not in prompts:
        raise errors.ModelFolderError(f'{path}: default_prompt_name is {default!r}, but prompts '
                                      f'has only {", ".join(prompts) or "none"}')
    # The default is for models that name neither side. The library uses the first of a passage's
    # names. In its own files an empty one stands beside the intended one.
    named = any(name in prompts for name in ('query', *_PASSAGE_NAMES))
    fallback = '' if named or default is None else prompts[default] or ''
    similarity, truncate_dim = options.get('similarity_fn_name'), options.get('truncate_dim')
    if similarity not in (None, 'cosine', 'dot'):
        raise errors.ModelFolderError(f'{path}: similarity_fn_name is {similarity!r}; only cosine '
                                      'and dot are supported')
    if truncate_dim is not None and (not isinstance(truncate_dim, int)
                                     or isinstance(truncate_dim, bool) or truncate_dim < 1):
        raise errors.ModelFolderError(f'{path}: truncate_dim is {truncate_dim!r}, expected an '
                                      'integer of at least 1')
    passage = next((prompts[name] for name in _PASSAGE_NAMES if prompts.get(name)), fallback)
    return _Prompts(prompts.get('query') or fallback, passage, similarity, truncate_dim)
