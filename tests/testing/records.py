"""Small records of evaluations and runs, as the files of results and metrics have them, made by hand."""

TITLE = 'Orchard handbook, part three: a chapter with a title of some length'


def passages(attention: tuple[float, ...]) -> list[dict]:
    """Passages of falling score with the given attention."""
    text = 'Passage {} says that the <b>press</b> was sold to the village. '
    return [{'docid': f'orchard/{place}', 'title': TITLE, 'text': text.format(place) * 3, 'score': 1 - .2 * place, 'attention': share,
             'index': 'index'} for place, share in enumerate(attention)]


def results(scores, confident: bool = False, ranked: bool = True, read: bool = True) -> list[dict]:
    """Rows of results, one a score: with confidences, ranks of gold passages, and passages where asked for."""
    rows = []
    for number, score in enumerate(scores):
        row = {'example_id': number, 'question': f'Who looked after the bees in 19{number:02}, <i>and why</i>?',
               'answers': [f'person {number}'], 'prediction': f'person {number}' if score else 'nobody',
               'exact_match': float(score), 'f1': (number % 4 + score) / 5}
        if confident:
            row |= {'confidence': .3 + .4 * score + .25 * (number % 3) / 2, 'abstained': False}
        row['retrieved'] = 5 if read else 0
        if ranked:
            row |= {'gold_docids': ['orchard/0'], 'gold_ranks': [] if number % 7 == 6 else [(number + int(not score)) % 5],
                    'answer_rank': number % 5 if score else None}
        if read:
            row['passages'] = passages((.5, .2, .15, .1, .05) if number % 3 else (.1, .15, .3, .25, .2))
        rows.append(row)
    return rows


def history(steps: int, evaluates: bool = True, joint: bool = True) -> list[dict]:
    """Rows of a run's metrics, evaluated at every tenth step; `joint` trains the retriever and refreshes the index."""
    rows = []
    for step in range(1, steps + 1):
        row = {'step': step, 'loss': 3 / step + 1, 'reader_loss': 2 / step + .5, 'gradient_norm': 5 / step,
               'learning_rate': 4e-5 * step / steps, 'retriever_learning_rate': 2e-5 * step / steps,
               'seconds': 20. if step == 1 else .5 + step % 3 / 50,
               'reader_tokens_per_second': 1500. + step}
        if joint:
            row |= {'retriever_loss': 1 / step + .1, 'agreement': .4 + .3 * step / steps, 'index_age_mean': step % 20 / 2,
                    'index_age_max': float(step % 20)}
        if evaluates and step % 10 == 0:
            part = step / steps
            row |= {'eval_exact_match': .2 + .5 * part, 'eval_f1': .3 + .5 * part, 'eval_stderr': .02, 'eval_seconds': 3.,
                    **{f'eval_gold_recall_at_{k}': min(1, .3 * part + .15 * k) for k in (1, 2, 5)}}
        rows.append(row)
    return rows
