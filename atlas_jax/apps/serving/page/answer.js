// One answer: the text so far, its confidence, the answer without passages, and the answer before a change.

import {bar, el, percent} from './dom.js';

// After this time, the page explains the wait.
const PATIENCE_MS = 4000;

/** Returns the heading of a pane and its answer. `pane.turn` may still lack fields. */
export function card(pane) {
  const {turn} = pane;
  return [
    el('header', {class: 'asked'}, el('h2', {id: `${pane.name}-title`}, turn.question), el('p', {class: 'soft small'}, about(turn, pane.running))),
    el('div', {class: 'answers'},
      el('section', {class: 'card', 'aria-labelledby': `${pane.name}-answer-title`},
        el('h3', {id: `${pane.name}-answer-title`, class: 'label'}, 'Answer from the passages'),
        el('p', {class: 'answer', id: `${pane.name}-answer`}, answerText(turn.text, pane.running)),
        pane.running ? null : confidence(turn)),
      turn.closed_book === undefined ? null : withoutPassages(turn)),
    pane.before && !pane.running ? beforeAndAfter(pane) : null,
  ];
}

function answerText(text, running) {
  if (text) return text;
  return el('span', {class: 'soft'}, running ? waiting() : '(no answer)');
}

function waiting() {
  const words = el('span', {}, 'Searching and reading …');
  setTimeout(() => words.append(' The first question of its kind takes longer: programs are compiled for it.'), PATIENCE_MS);
  return words;
}

function about(turn, running) {
  const parts = [turn.changed, `model ${turn.model}`, `index ${turn.index}`];
  if (!running) parts.push(`${turn.passages.length} ${turn.passages.length === 1 ? 'passage' : 'passages'} read`);
  if (Number.isFinite(turn.seconds) && !running) parts.push(`${turn.seconds.toPrecision(2)} s`);
  return parts.filter(Boolean).join(' · ');
}

function confidence({confidence: share}) {
  if (!Number.isFinite(share)) {
    return el('div', {class: 'confidence'}, el('p', {}, el('b', {}, 'Not calibrated. '), 'It is unknown how far this answer can be trusted. ',
      el('code', {}, 'atlas-jax calibrate'), ' changes that.'));
  }
  const hundred = Math.round(100 * share);
  return el('div', {class: 'confidence'}, el('p', {}, el('b', {}, `Confidence ${percent(share)}`)), bar('sure', share),
    el('p', {class: 'soft small'}, `Of 100 answers with this confidence about ${hundred} are right, if the questions are like those it was fitted to.`));
}

function withoutPassages(turn) {
  const same = agree({text: turn.closed_book}, turn);
  return el('section', {class: 'card plain'}, el('h3', {class: 'label'}, 'Without passages'),
    el('p', {class: 'answer'}, answerText(turn.closed_book, false)),
    el('p', {class: 'soft small'}, same ? 'The same: the reader says this from its weights alone.' : 'Another answer: the passages changed it.'));
}

function beforeAndAfter({before, turn}) {
  const changed = !agree(before, turn);
  const isCalibrated = [before, turn].some((each) => Number.isFinite(each.confidence));
  const sure = (each) => (Number.isFinite(each.confidence) ? percent(each.confidence) : '–');
  const row = (name, each) => el('tr', {}, el('th', {scope: 'row'}, name), el('td', {}, each.text || '(no answer)'),
    isCalibrated && el('td', {class: 'number'}, sure(each)), el('td', {}, each.changed || 'as found'));
  return el('section', {class: 'card compared', 'aria-label': 'Before and after'},
    el('p', {}, el('b', {}, changed ? 'The answer changed.' : 'The answer is the same.')),
    el('table', {}, el('thead', {}, el('tr', {}, ...['', 'Answer', isCalibrated && 'Confidence', 'Passages'].filter((name) => name !== false).map(head))),
      el('tbody', {}, row('Before', before), row('Now', turn))));
}

function head(name) {
  return name ? el('th', {scope: 'col'}, name) : el('td');
}

/** Returns whether two answers are the same, ignoring case. */
export function agree(one, other) {
  const plain = ({text}) => (text ?? '').trim().toLowerCase();
  return plain(one) === plain(other);
}

/** Returns the content before the first question. */
export function empty(examples, ask) {
  const shown = examples.length ? examples : ['Who looks after the bees?'];
  return el('div', {class: 'card empty'}, el('h2', {}, 'Nothing asked yet'),
    el('p', {}, 'Type a question. The answer comes with the passages it was read from, how sure it is, and what the reader would say without them. ',
      'Then leave a passage out, or edit one, and see how the answer changes.'),
    el('p', {}, examples.length ? 'Some questions of this project:' : 'For example:'),
    el('ul', {class: 'examples'}, ...shown.map((question) => el('li', {},
      el('button', {type: 'button', class: 'example', onclick: () => ask(question)}, question)))));
}

/** Returns an error's text, with a button to try again if `again` is given. */
export function problem(error, again) {
  const wait = error.retryAfter ? ` The server expects to be free in ${error.retryAfter} s.` : '';
  return el('div', {class: 'notice wrong'}, el('p', {}, error.message + wait),
    again ? el('button', {type: 'button', onclick: again}, 'Try again') : null);
}
