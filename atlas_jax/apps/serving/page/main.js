// Assembles the page: the form, two panes, the history.

import {byId, el, replace} from './dom.js';
import {Problem, send} from './api.js';
import {draft, theme, token, turns} from './storage.js';
import * as answers from './answer.js';
import * as changes from './changes.js';
import * as history from './history.js';
import * as keys from './keys.js';
import * as status from './status.js';
import {Pane} from './pane.js';

const SIDES = ['a', 'b'];
const panes = SIDES.map((name) => new Pane(name, {changed, answered, undo, of: actionsOf}));
let served = {models: [], indexes: [], examples: []};

// ---- settings

async function loadServed() {
  try {
    ({value: served} = await send('GET', 'models'));
  } catch (problem) {
    // If the server cannot be reached, status.js says so and loads again later.
    if (problem.status) complain(problem.message);
    return;
  }
  const [index] = served.indexes;
  byId('served').textContent = `${index.passages.toLocaleString('en')} ${index.passages === 1 ? 'passage' : 'passages'}`;
  SIDES.forEach(drawSide);
  drawSettings();
  if (panes.every((pane) => !pane.turn)) drawEmpty();
}

function drawSide(side, place) {
  const fieldset = byId(`side-${side}`);
  const choice = (name, label, options) => el('label', {}, label, el('select', {id: `${side}-${name}`},
    ...options.map((option, number) => el('option', {value: option.name, selected: number === Math.min(place, options.length - 1)}, option.name))));
  replace(fieldset, fieldset.querySelector('legend'), choice('model', 'Model', served.models), choice('index', 'Index', served.indexes),
    el('label', {}, 'Passages to read', el('input', {type: 'number', id: `${side}-count`, min: 1, max: 20, inputmode: 'numeric'})));
  drawCount(side);
}

function drawCount(side) {
  const model = served.models.find((each) => each.name === byId(`${side}-model`).value);
  byId(`${side}-count`).placeholder = String(model?.n_context ?? '');
}

function side(name) {
  const count = byId(`${name}-count`);
  return {model: byId(`${name}-model`)?.value, index: byId(`${name}-index`)?.value, n_context: Number(count?.value) || null,
    shown: count?.value || count?.placeholder};
}

function drawSettings() {
  if (!served.models.length) return;
  const words = shownPanes().map((pane) => side(pane.name)).map((each) => `model ${each.model}, index ${each.index}, ${each.shown} passages`);
  byId('settings-now').textContent = words.join(' – and – ');
}

function comparing() {
  return byId('compare').checked;
}

function shownPanes() {
  return comparing() ? panes : panes.slice(0, 1);
}

function drawComparing() {
  byId('side-b').hidden = byId('pane-b').hidden = !comparing();
  document.body.classList.toggle('comparing', comparing());
  // With one model and one index only the number of passages can differ, so its setting must be visible.
  if (comparing()) byId('settings').open = true;
  else panes[1].reset();
  drawSettings();
  drawAgreement();
}

// ---- asking

function ask(question) {
  const asked = question.trim();
  if (!asked) {
    complain('Type a question first.');
    byId('question').focus();
    return;
  }
  complain('');
  byId('empty')?.remove();
  shownPanes().forEach((pane) => pane.ask(request(asked, pane.name)));
}

function request(question, name) {
  const {model, index, n_context} = side(name);
  return {question, model, index, n_context, explain: byId('explain').checked, closed_book: byId('closed-book').checked};
}

function complain(text) {
  replace(byId('form-error'), text && answers.problem(new Problem(0, text)));
}

function changed() {
  byId('stop').hidden = !panes.some((pane) => pane.running);
  drawAgreement();
}

function drawAgreement() {
  const said = panes.map((pane) => (pane.turn?.done && !pane.running ? pane.turn : null));
  const isShown = comparing() && said.every(Boolean) && said[0].question === said[1].question;
  byId('agreement').hidden = !isShown;
  if (!isShown) return;
  // In words, because on a phone the second answer is far below the first.
  const [first, second] = said.map((turn) => `“${turn.text}”`);
  byId('agreement').textContent = answers.agree(...said) ? `Both give the same answer: ${first}.` : `The answers differ: ${first} and ${second}.`;
}

function answered(turn) {
  turns.add(turn);
  drawHistory();
}

function drawEmpty() {
  const shown = answers.empty(served.examples ?? [], (question) => {
    byId('question').value = question;
    ask(question);
  });
  shown.id = 'empty';
  replace(panes[0].root, shown);
}

function drawHistory() {
  history.show((turn) => {
    byId('question').value = turn.question;
    panes[0].open(turn, {...request(turn.question, 'a'), model: turn.model, index: turn.index, n_context: turn.n_context});
    byId('a-title').scrollIntoView({block: 'nearest'});
  });
}

// ---- changes of passages

function actionsOf(pane) {
  const at = () => ({model: pane.turn.model, index: pane.turn.index});
  const change = (kind) => (passage) => changes.show(kind, at(), passage.docid, (made) => askAgain(at().index, made));
  return {toggle: (passage) => pane.toggle(passage.docid), edit: change('edit'), remove: change('remove')};
}

function add() {
  const {model, index} = panes[0].turn ?? side('a');
  if (!model) return complain('The page does not know yet which models the server has. Wait until the server can be reached.');
  return changes.show('add', {model, index}, null, (made) => askAgain(index, made));
}

/** Asks again in all panes that use a changed index. */
function askAgain(index, change) {
  drawToken();
  panes.filter((pane) => pane.turn?.index === index && pane.request).forEach((pane) => pane.again(change));
  loadCounts();
}

async function undo(pane, change) {
  try {
    await change.undo();
    askAgain(pane.turn.index, {what: `${change.what}, and undone`});
  } catch (problem) {
    pane.error = problem;
    pane.draw();
  }
}

async function loadCounts() {
  const {value} = await send('GET', 'models').catch(() => ({value: served}));
  served = value;
  byId('served').textContent = `${served.indexes[0]?.passages.toLocaleString('en')} passages`;
}

function drawToken() {
  byId('forget-token').hidden = !token.get();
}

// ---- start

function setTheme(name) {
  theme.set(name);
  byId('theme').value = name;
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

function nextTheme() {
  const isDark = matchMedia('(prefers-color-scheme: dark)').matches;
  const now = document.documentElement.dataset.theme ?? (isDark ? 'dark' : 'light');
  setTheme(now === 'dark' ? 'light' : 'dark');
}

function startForm() {
  const question = byId('question');
  question.value = draft.get();
  question.addEventListener('input', () => draft.set(question.value));
  question.addEventListener('keydown', (event) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask(question.value);
  });
  byId('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    ask(question.value);
  });
  byId('settings').addEventListener('change', () => {
    SIDES.forEach((name) => byId(`${name}-model`) && drawCount(name));
    drawSettings();
  });
}

function startButtons() {
  const click = (id, run) => byId(id).addEventListener('click', run);
  byId('compare').addEventListener('change', drawComparing);
  click('stop', stop);
  click('add-passage', add);
  click('export', history.download);
  click('clear-history', clearHistory);
  click('forget-token', () => {
    token.set('');
    drawToken();
  });
  byId('theme').addEventListener('change', (event) => setTheme(event.target.value));
  byId('theme').value = theme.get();
}

/** Stops all running answers. Returns whether there were any. */
function stop() {
  const running = panes.filter((pane) => pane.running);
  running.forEach((pane) => pane.stop());
  return running.length > 0;
}

function clearHistory() {
  if (history.clear()) drawHistory();
}

function toggleNumber(number) {
  const passage = panes[0].shown[number - 1];
  if (passage) panes[0].toggle(passage.docid);
}

const SHORTCUTS = [
  ['/', 'go to the question', () => byId('question').focus()],
  ['1–9', 'switch passage 1 to 9 on or off', toggleNumber],
  ['r', 'ask again', () => panes.forEach((pane) => pane.turn && pane.again())],
  ['a', 'add a passage', add],
  ['c', 'two side by side, or one', () => byId('compare').click()],
  ['m', 'open or close the map', () => byId('a-map')?.toggleAttribute('open')],
  ['h', 'go to the history', () => byId('history-title').focus()],
  ['e', 'export the history', () => byId('export').click()],
  ['d', 'dark or light', nextTheme],
  ['?', 'this list', keys.show],
];

startForm();
startButtons();
changes.start();
keys.start(Object.assign(SHORTCUTS, {stop}));
drawToken();
drawComparing();
drawHistory();
drawEmpty();
status.watch(loadServed);
loadServed();
