// The history of answers in this browser: shown again, exported, cleared.

import {byId, el, percent, replace} from './dom.js';
import {turns} from './storage.js';

/** Shows the list; `open` is called with the chosen answer. */
export function show(open) {
  const kept = turns.get();
  byId('history-empty').hidden = kept.length > 0;
  byId('export').disabled = byId('clear-history').disabled = !kept.length;
  replace(byId('history-list'), ...kept.map((turn, place) => el('li', {}, el('button', {type: 'button', class: 'turn', id: `turn-${place}`,
    onclick: () => open(turn)}, el('span', {class: 'turn-question'}, turn.question), el('span', {class: 'turn-answer'}, turn.text || '(no answer)'),
  el('span', {class: 'soft small'}, about(turn))))));
}

function about(turn) {
  const time = new Date(turn.time);
  return [Number.isNaN(time.valueOf()) ? '' : time.toLocaleString([], {dateStyle: 'short', timeStyle: 'short'}),
    Number.isFinite(turn.confidence) ? percent(turn.confidence) : '', turn.changed].filter(Boolean).join(' · ');
}

/** Downloads all answers, oldest first, as JSON lines. */
export function download() {
  const lines = turns.get().toReversed().map((turn) => `${JSON.stringify(turn)}\n`);
  const address = URL.createObjectURL(new Blob(lines, {type: 'application/jsonl'}));
  el('a', {href: address, download: 'atlas-jax-answers.jsonl'}).click();
  // The download has started by then; the page must not keep its content.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Deletes all answers after a confirmation. Returns whether it did. */
export function clear() {
  if (!window.confirm('Forget all questions and answers that this browser keeps?')) return false;
  turns.clear();
  return true;
}
