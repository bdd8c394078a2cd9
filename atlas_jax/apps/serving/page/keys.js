// Keyboard shortcuts. Single keys can be turned off: speech input and screen readers may press them by accident (WCAG 2.1.4).

import {byId, el} from './dom.js';
import {keys} from './storage.js';

const TYPING = 'textarea, select, input:not([type=checkbox])';

/** Starts to listen. Each of `shortcuts` is [key, description, function]; the function of '1–9' gets the number. */
export function start(shortcuts) {
  const fixed = [['Enter', 'ask, in the question'], ['Tab', 'go on to the next control'], ['Space', 'switch a passage on or off'],
    ['Esc', 'stop the answer; leave a text box, so that the keys below work; close a dialog']];
  byId('keys-list').replaceChildren(...[...fixed, ...shortcuts].flatMap(([key, words]) =>
    [el('dt', {}, el('kbd', {}, key)), el('dd', {}, words)]));
  byId('keys-on').checked = keys.get();
  byId('keys-on').addEventListener('change', () => keys.set(byId('keys-on').checked));
  byId('show-keys').addEventListener('click', show);
  document.addEventListener('keydown', (event) => pressed(event, shortcuts));
}

/** Opens the list of keys. */
export function show() {
  byId('keys-dialog').showModal();
}

/** Returns the action of Esc: stops running answers, else leaves the text box. */
function escape(stop) {
  return () => stop() || document.activeElement.blur();
}

function pressed(event, shortcuts) {
  const elsewhere = event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector('dialog[open]');
  if (elsewhere) return;
  if (event.key !== 'Escape' && (!keys.get() || event.target.closest(TYPING))) return;
  const digit = /^[1-9]$/.test(event.key);
  const found = shortcuts.find(([key]) => key === (digit ? '1–9' : event.key === 'Escape' ? 'Esc' : event.key));
  const run = event.key === 'Escape' ? escape(shortcuts.stop) : found?.[2];
  if (!run) return;
  event.preventDefault();
  run(Number(event.key));
}
