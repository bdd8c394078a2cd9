"""Recognises a file's release by the fields of its first record, so that a wrong file is refused
before anything is converted.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from atlas_jax import errors
from atlas_jax.io import compressed, json_array

_SPLITS = {
    'train': 'train', 'dev': 'dev', 'val': 'dev', 'valid': 'dev', 'validation': 'dev',
    'test': 'test'}
_SPLIT = re.compile(rf'(?<![a-z])({"|".join(_SPLITS)})(?![a-z])')


class Release(NamedTuple):
    """A kind of file.

    command  the command of `atlas-jax data`; '' if our tasks read the file as it is
    what     the publisher's name for it
    form     'lines', 'array', or the member of the one object that holds the array
    fields   the fields that its first record must have
    """

    command: str
    what: str
    form: str
    fields: frozenset[str]


def _release(command: str, what: str, form: str, fields: str) -> Release:
    return Release(command, what, form, frozenset(fields.split()))


RELEASES = (
    _release('nq_open', 'Natural Questions open (NQ-open.train.jsonl)', 'lines', 'question answer'),
    _release('nq', 'Natural Questions, simplified (v1.0-simplified_simplified-nq-train.jsonl.gz)',
             'lines', 'annotations document_text question_text'),
    _release('nq', 'Natural Questions, original (v1.0-simplified_nq-dev-all.jsonl.gz)', 'lines',
             'annotations document_tokens question_text'),
    _release('triviaqa', 'TriviaQA (unfiltered-web-train.json, wikipedia-train.json)', 'Data',
             'Question QuestionId'),
    _release('fever', 'FEVER (train.jsonl, shared_task_dev.jsonl)', 'lines', 'id claim'),
    _release('kilt', 'KILT (nq-train-kilt.jsonl)', 'lines', 'id input'),
    _release('kilt', 'KILT\'s TriviaQA (triviaqa-dev_id-kilt.jsonl)', 'lines', 'id output'),
    _release('kilt', 'KILT\'s TriviaQA (triviaqa-test_id_without_answers-kilt.jsonl)', 'lines',
             'id'),
    _release('templama', 'TempLAMA (train.json)', 'lines', 'query answer date'),
    _release('hotpotqa', 'HotpotQA (hotpot_train_v1.1.json)', 'array', '_id question context'),
    _release('squad', 'SQuAD (train-v1.1.json, dev-v2.0.json)', 'data', 'title paragraphs'),
    _release('web_questions', 'WebQuestions (webquestions.examples.train.json)', 'array',
             'utterance targetValue'),
    _release('boolq', 'BoolQ (train.jsonl)', 'lines', 'question passage title'),
    _release('boolq', 'BoolQ of SuperGLUE (train.jsonl)', 'lines', 'question passage idx'),
    _release('sciq', 'SciQ (train.json)', 'array', 'question correct_answer distractor1'),
    _release('fid', 'retrieved passages as FiD and DPR write them', 'array', 'question ctxs'),
    _release('fid', 'retrieved passages as FiD and Contriever write them', 'lines',
             'question ctxs'),
    _release('dpr_retriever', 'training data of DPR\'s retriever (biencoder-nq-train.json)',
             'array', 'question positive_ctxs'),
    _release('', 'examples as our tasks read them', 'lines', 'question answers'),
    _release('', 'examples as our tasks read them', 'lines', 'question options answer'),
    # Corpora, which are sometimes given in place of questions.
    _release('atlas', 'passages, one a line', 'lines', 'title text'),
    _release('fever_wikipedia', 'the pages of FEVER', 'lines', 'id text lines'),
    _release('kilt_wikipedia', 'the knowledge source of KILT', 'lines', 'wikipedia_id text'),
    _release('beir', 'the corpus of a BEIR data set', 'lines', '_id text'),
)
_MEMBERS = tuple(sorted({release.form for release in RELEASES} - {'lines', 'array'}))


def check(files: Sequence[pathlib.Path], command: str) -> list[tuple[str, pathlib.Path, str]]:
    """Returns (output, path, form) for files of one command. The output is the split in a file's
    name, or the name itself.

    Raises InputFileError: a file is missing, given twice, or of another release; the message says
    which release it seems to be.
    """
    check_distinct(files)
    return [(split_of(path), path, release_of(path, command).form) for path in files]


def check_distinct(files: Sequence[pathlib.Path]) -> None:
    """Raises InputFileError: a file is given twice."""
    for number, path in enumerate(files):
        if path.resolve() in {other.resolve() for other in files[:number]}:
            raise errors.InputFileError(path, 'given twice', remedy='give each file once')


def release_of(path: pathlib.Path, *commands: str) -> Release:
    """Returns the release of a file, which must be one of the commands' releases.

    Raises InputFileError: it cannot be read, or is another release.
    """
    wanted = [release for release in RELEASES if release.command in commands]
    expected = ' or '.join(dict.fromkeys(release.what for release in wanted))
    try:
        opening = json_array.opening(path, _MEMBERS)
    except errors.InputFileError as error:
        raise errors.InputFileError(path, f'{error.parts["problem"]}; expected {expected}',
                                    remedy=error.parts['remedy']) from error
    form = opening.member or opening.kind
    # The release with the most fields fits best: claims of FEVER have an id, and so have many
    # others. A release that has only an id fits only records that have nothing else.
    fitting = sorted((release for release in RELEASES
                      if release.form == form and release.fields <= opening.fields and (
                          len(release.fields) > 1 or release.fields == opening.fields)),
                     key=lambda release: -len(release.fields))
    found = next((release for release in fitting
                  if release.command in commands and len(release.fields) == len(fitting[0].fields)),
                 None)
    if found:
        return found
    if not fitting:
        fields = ', '.join(sorted(opening.fields))[:200] or 'none'
        raise errors.InputFileError(path,
                                    f'not {expected}: the fields of its first record are {fields}',
                                    remedy='give that file')
    other = fitting[0]
    raise errors.InputFileError(path, f'not {expected}: it seems to be {other.what}',
                                remedy=f'convert it by `atlas-jax data {other.command}`'
                                if other.command else 'it needs no conversion')


def split_of(path: pathlib.Path) -> str:
    """Returns train, dev or test if the file's name has it (val and validation mean dev);
    otherwise the name without its suffixes.
    """
    name = compressed.plain_name(path).name
    if found := _SPLIT.search(name.lower()):
        return _SPLITS[found[1]]
    return re.sub(r'[^\w.-]', '_', compressed.plain_name(path).stem) or 'examples'
