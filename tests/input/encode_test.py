"""Rows of a batch: prompts, formats, choices, given passages, an example's own rows."""

import dataclasses

import numpy as np
import pytest

from atlas_jax import errors
from atlas_jax.corpus.passages import Passage
from atlas_jax.input import encode, pipeline, text_inputs
from atlas_jax.tasks import mlm, multiple_choice, qa
from tests.testing import word_tokenizers

T5, BERT = word_tokenizers.t5(), word_tokenizers.bert()
EXAMPLE = qa.QATask('{question}', '{target}').example({'question': 'what is 7', 'answers': ['the red']}, 3)


def encoder(query_width=13, target_width=9, **options) -> encode.ExampleEncoder:
    return encode.ExampleEncoder(T5, BERT, query_width, target_width, **options)


def test_optional_fields_are_left_out():
    row = encoder().encode(EXAMPLE)
    batch = encode.stack([row, encoder().filler()])
    for name in ('decoder_prompt_tokens', 'choice_tokens', 'passage_tokens', 'retriever_passage_tokens', 'excluded_passage_ids'):
        assert getattr(batch, name) is None


def test_the_prompt_comes_first_and_is_no_loss():
    made = encoder(decoder_format='is {target} .', decoder_prompt_format='the {query} :')
    row = made.encode(EXAMPLE)
    prompt, target = T5.encode('the what is 7 :'), T5.encode('is the red .')
    given = row.decoder_prompt_tokens[:row.decoder_prompt_lengths].tolist()
    assert given == prompt[:8] == row.decoder_target_tokens[:len(given)].tolist()
    wide = dataclasses.replace(made, target_width=30).encode(EXAMPLE)
    ids = [*prompt, *target, T5.eos_id]
    assert wide.decoder_target_tokens[:len(ids)].tolist() == ids and not wide.decoder_target_tokens[len(ids):].any()
    expected = np.zeros(30)
    expected[len(prompt):len(ids)] = 1
    np.testing.assert_array_equal(wide.decoder_loss_weights, expected)
    assert dataclasses.replace(made, target_width=30).decode_answer(EXAMPLE, ids) == 'the red'
    assert made.filler().decoder_prompt_lengths == 0


def test_a_target_that_ends_in_eos_gets_no_second_one_and_a_long_one_loses_it():
    made = encoder()
    row = made.encode(dataclasses.replace(EXAMPLE, target='the red</s>'))
    assert row.decoder_target_tokens.tolist().count(T5.eos_id) == 1
    long = dataclasses.replace(EXAMPLE, target='the red blue ' * 4)
    row = made.encode(long)
    assert T5.eos_id not in row.decoder_target_tokens and row.decoder_loss_weights.all()
    assert made.count_clipped_targets([EXAMPLE, long, long]) == 2


def test_choices_are_scored_where_they_differ():
    task = multiple_choice.MultipleChoiceTask()
    examples = [task.example({'question': 'q', 'options': dict(zip(letters, 'xyz', strict=False)), 'answer': 'B'}, 0)
                for letters in ('ABC', 'AB')]
    made = encoder(query_width=40)
    made.fit_queries(examples)
    batch = encode.stack([*map(made.encode, examples), made.filler()])
    sentinel, letters = T5.encode('<extra_id_0>'), [T5.encode(letter) for letter in 'ABC']
    width = len(sentinel) + len(letters[0]) + 1
    assert batch.choice_tokens.shape == batch.choice_weights.shape == (3, 3, width)
    for number, letter in enumerate(letters):
        assert batch.choice_tokens[0, number].tolist() == [*sentinel, *letter, T5.eos_id]
        weights = batch.choice_weights[0, number]
        assert weights.sum() >= 1 and weights[-1] == 0 and weights[0] == 0  # neither the sentinel nor the eos
    assert not batch.choice_weights[1, 2].any() and not batch.choice_weights[2].any()


def test_a_long_multiple_choice_loses_its_beginning():
    task = multiple_choice.MultipleChoiceTask()
    example = task.example({'question': 'what is ' * 30, 'options': {'A': 'red', 'B': 'blue'}, 'answer': 'B'}, 0)
    row = encoder(query_width=24).encode(example)
    assert row.reader_query_tokens[-1] == T5.encode('<extra_id_0>')[0] and row.reader_query_lengths == 24
    whole = BERT.encode(example.query)
    assert row.retriever_query_tokens.tolist() == [BERT.cls_id, *whole[-22:], BERT.sep_id]


def test_given_passages_and_kept_rows():
    form = text_inputs.FormatEncoder('{query} {title} {text}', T5.encode, 23, suffix_ids=(T5.eos_id,))
    made = encoder(passages=text_inputs.PassageEncoder(form, None, 2, 13), kept_rows={EXAMPLE.example_id: [5], 99: [4, 7]})
    given = dataclasses.replace(EXAMPLE, passages=(Passage('p', 'red', '', 'the blue'),))
    batch = encode.stack([made.encode(given), made.encode(given, [Passage('q', 'x', '', 'y')] * 2), made.filler()])
    assert batch.passage_lengths[:, 1].tolist() == [0, len(form.ids('what is 7', 'x', 'y')), 0]
    assert batch.passage_tokens[0, 0, :batch.passage_lengths[0, 0]].tolist() == form.ids('what is 7', 'red', 'the blue')
    assert batch.excluded_passage_ids.tolist() == [[5, -1], [5, -1], [-1, -1]]
    assert made.encode(given, bare=True).passage_tokens is None


def test_formats_without_their_field_are_refused():
    with pytest.raises(errors.FormatError, match='decoder_format "x": must have {target} once'):
        encoder(decoder_format='x')
    with pytest.raises(errors.FormatError, match='decoder_prompt_format "{target}": must have {query} once'):
        encoder(decoder_prompt_format='{target}')


def test_every_epoch_draws_anew_and_a_restart_draws_the_same():
    task = mlm.MLMTask()
    rows = [{'text': f'the thing {i} is red and the thing is blue or green or white {i}'} for i in range(3)]
    examples = [task.example(row, i) for i, row in enumerate(rows)]
    made = encoder(query_width=90, target_width=60, task=task)
    assert made.fit_queries(examples)[-1] == 90 == made.query_width  # another draw may be longer
    batches = pipeline.training_batches(examples, made, 3, seed=5)
    first, second = next(batches), next(batches)
    state = batches.get_state()
    third = next(batches)
    by_id = lambda batch: batch.reader_query_tokens[np.argsort(batch.example_ids)]  # noqa: E731
    assert (by_id(first) != by_id(second)).any()
    again = pipeline.training_batches(examples, made, 3, seed=5)
    again.set_state(state)
    np.testing.assert_array_equal(next(again).decoder_target_tokens, third.decoder_target_tokens)
    drawn = pipeline.training_examples(examples, made, 3, seed=5)
    rows = [made.encode(example).reader_query_tokens for example in next(drawn)]
    np.testing.assert_array_equal(np.stack(rows), first.reader_query_tokens)


def _choice(question, **options):
    return multiple_choice.MultipleChoiceTask().example({'question': question, 'options': options, 'answer': 'A'}, 5)


def test_queries_that_are_cut_are_counted_and_said():
    made = encoder(query_width=17)
    examples = [dataclasses.replace(EXAMPLE, query='what is the red thing ' * times) for times in (1, 2, 3, 4)]
    lengths = made.fit_queries(examples)
    cut = [len(T5.encode(example.query)) > 17 or len(BERT.encode(example.query)) + 2 > 17 for example in examples]
    assert 0 < sum(cut) < 4 and made.queries_cut == sum(cut) / 4 and lengths.max() <= 17
    assert made.notes == (f'{sum(cut)} of 4 queries ({sum(cut) / 4:.1%}) were cut at 17 tokens and lost their end; raise query_max_tokens '
                          'to keep them whole',)
    made.fit_queries(examples[:1])
    assert made.notes == () and made.queries_cut == 0


def test_options_are_never_cut():
    example = _choice('what is the red thing ' * 9, A='the red thing', B='the blue thing', C='green')
    made = encoder(query_width=16, reader_room=90, retriever_room=80)
    made.fit_queries([example, _choice('what ?', A='x', B='y')])
    kept = T5.encode(example.kept)
    row = made.encode(example)
    assert made.query_width >= len(kept) > 16
    assert row.reader_query_tokens[row.reader_query_lengths - len(kept):row.reader_query_lengths].tolist() == kept
    theirs = [*BERT.encode(example.kept), BERT.sep_id]
    assert row.retriever_query_tokens[row.retriever_query_lengths - len(theirs):row.retriever_query_lengths].tolist() == theirs
    raised, cut = made.notes
    assert raised.startswith('2 of 2 queries have options of more than 16 tokens; query_max_tokens was raised to')
    assert 'of 2 queries (' in cut and 'lost their beginning' in cut


def test_options_that_do_not_fit_are_refused_by_line():
    example = dataclasses.replace(_choice('what ?', A='the red thing', B='the blue thing'), line=7)
    for room, model in ({'reader_room': 11}, 'reader'), ({'retriever_room': 13}, 'retriever'):
        with pytest.raises(errors.ConfigError, match=rf'line 7, 9: the options take \d+ tokens, the {model} has room for 1[13]; raise'):
            encoder(query_width=10, **room).fit_queries([example, example, dataclasses.replace(example, line=9)])
    with pytest.raises(errors.ConfigError, match='example 5: the options'):
        encoder(query_width=10, reader_room=11).fit_queries([dataclasses.replace(example, line=0)])


def test_a_query_leaves_room_for_the_words_of_the_format():
    long = dataclasses.replace(EXAMPLE, query='what is the red thing ' * 9)
    made = encoder(query_width=40, reader_room=19, retriever_room=23)
    assert made.fit_queries([long]).tolist() == [19] and 'raise text_max_tokens' in made.notes[0]
    row = made.encode(long)
    assert row.reader_query_tokens[:19].tolist() == T5.encode(long.query)[:19] and row.reader_query_lengths == 19
    assert row.retriever_query_lengths == 23


def test_no_examples_need_the_narrowest_rows():
    made = encoder(query_width=40)
    assert made.fit_queries([]).shape == (0,) and made.query_width == 16
    wide = encoder(query_width=90)
    assert [(wide.fit_queries([dataclasses.replace(EXAMPLE, query='a ' * words)], (32, 64)), wide.query_width)[1]
            for words in (1, 20)] == [32, 32]
    assert made.count_clipped_targets([]) == 0 and made.filler().choice_tokens is None


@pytest.mark.parametrize('sequences, place', [([[1, 2, 3], [1, 2, 4]], 2), ([[5, 2], [6, 2], [5, 3]], 0), ([[1, 2], [1, 2, 3]], 0),
                                              ([[7]], 0)])
def test_the_first_difference(sequences, place):
    assert encode._first_difference(sequences) == place


def test_a_row_is_int32_and_float32():
    batch = encode.stack([encoder(kept_rows={}).encode(EXAMPLE), encoder(kept_rows={}).filler()])
    assert batch.decoder_loss_weights.dtype == np.float32 and batch.excluded_passage_ids.tolist() == [[-1], [-1]]
    assert batch.example_ids.tolist() == [3, -1] and batch.reader_query_tokens.shape == (2, 13) == batch.retriever_query_tokens.shape
    for name in ('retriever_query_tokens', 'retriever_query_lengths', 'reader_query_lengths', 'decoder_target_tokens', 'example_ids'):
        assert getattr(batch, name).dtype == np.int32
    assert not batch.decoder_loss_weights[1].any() and batch.retriever_query_lengths[1] == 2


def test_a_retriever_query_has_its_prompt_and_is_cut_to_the_room_it_leaves():
    def ids(query, width=16, kept='', **options):
        row = encoder(width, 4, **options).encode(dataclasses.replace(EXAMPLE, query=query, kept=kept))
        assert int(row.reader_query_lengths) == min(len(T5.encode(query)), width)  # the reader gets none of it
        return row.retriever_query_tokens[:int(row.retriever_query_lengths)].tolist()

    query, prompt = 'what is thing 3 ?', BERT.encode('is it : ')
    assert prompt and ids(query, retriever_query_format='is it : {query}') == [BERT.cls_id, *prompt, *BERT.encode(query), BERT.sep_id]
    long = ' '.join(f'thing {i}' for i in range(9))
    own = BERT.encode(long)
    for options in ({'width': 12}, {'retriever_room': 12}):
        room = 12 - len(prompt) - 2
        assert ids(long, retriever_query_format='is it : {query}', **options)[1 + len(prompt):-1] == own[:room]
        front = ids(long, retriever_query_format='is it : {query}', kept='thing 8', **options)
        assert front[1:1 + len(prompt)] == prompt and front[1 + len(prompt):-1] == own[-room:]


def test_a_prompt_that_cannot_stand_before_a_query_is_refused():
    with pytest.raises(errors.FormatError, match='retriever_query_format: .*touches'):
        encoder(16, 4, retriever_query_format='is{query}')
    with pytest.raises(errors.FormatError, match='must have {query} once'):
        encoder(16, 4, retriever_query_format='{title}')
    with pytest.raises(errors.ConfigError, match='leaves no room for a query; raise query_max_tokens, which is 4'):
        encoder(4, 4, retriever_query_format='is it : {query}')
