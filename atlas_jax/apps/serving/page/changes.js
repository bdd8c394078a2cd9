// Adds, edits and deletes passages: one dialog, which keeps the typed text until the server has accepted it.

import {byId} from './dom.js';
import {passagePath, send} from './api.js';
import {token} from './storage.js';

const TITLES = {add: 'Add a passage', edit: 'Edit a passage', remove: 'Delete a passage'};
const FIELDS = {docid: 'passage-docid', title: 'passage-heading', section: 'passage-section', text: 'passage-text'};
// The change in progress: {kind, at: {model, index}, passage, etag, done}.
let open = null;

/** Connects the dialog's buttons. */
export function start() {
  byId('passage-form').addEventListener('submit', (event) => {
    event.preventDefault();
    save();
  });
  byId('passage-cancel').addEventListener('click', () => byId('passage-dialog').close());
  byId('passage-reload').addEventListener('click', () => load());
}

/** Opens the dialog. `kind` is add, edit or remove; `done` gets {what, undo} after the index has changed. */
export async function show(kind, at, docid, done) {
  open = {kind, at, done, passage: {docid: docid ?? '', title: '', section: '', text: ''}, etag: null};
  byId('passage-title').textContent = TITLES[kind];
  byId('passage-note').textContent = `Index ${at.index}. Everyone who asks this server gets what you change.`;
  byId('passage-fields').hidden = kind === 'remove';
  byId('passage-docid').readOnly = kind !== 'add';
  byId('passage-docid-help').hidden = kind !== 'add';
  byId('passage-save').textContent = kind === 'remove' ? 'Delete and ask again' : 'Save and ask again';
  byId('token-part').hidden = token.get() !== '';
  complain('');
  fill();
  byId('passage-dialog').showModal();
  if (kind !== 'add') await load();
  byId({add: 'passage-text', edit: 'passage-text', remove: 'passage-save'}[kind]).focus();
}

/** Fetches the index's current passage and its version. */
async function load() {
  const {passage, at} = open;
  byId('passage-save').disabled = true;
  try {
    const {value, etag} = await send('GET', passagePath(passage.docid, at));
    Object.assign(open, {passage: value, etag});
    fill();
    complain('');
    byId('passage-save').disabled = false;
  } catch (problem) {
    complain(problem.message, true);
  }
}

function fill() {
  for (const [name, id] of Object.entries(FIELDS)) byId(id).value = open.passage[name] ?? '';
  byId('passage-save').disabled = false;
  if (open.kind === 'remove') {
    byId('passage-note').textContent = `“${open.passage.title || open.passage.docid}” is taken out of index ${open.at.index}, for everyone who asks ` +
      'this server.';
  }
}

function complain(text, canReload = false) {
  byId('passage-error').textContent = text;
  byId('passage-reload').hidden = !canReload;
}

async function save() {
  const mine = open;
  const typed = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id).value.trim()]));
  if (mine.kind !== 'remove' && !typed.text) return refuse('The text is empty. Type what the passage says.', 'passage-text');
  if (!byId('token-part').hidden) token.set(byId('token').value.trim());
  if (!token.get()) return refuse('Enter the token: changes need it.', 'token');
  byId('passage-save').disabled = true;
  try {
    const change = await CHANGES[mine.kind](mine, typed);
    byId('token').value = '';
    byId('passage-dialog').close();
    mine.done(change);
  } catch (problem) {
    failed(problem);
  } finally {
    byId('passage-save').disabled = false;
  }
}

function refuse(words, id) {
  byId('token-part').hidden &&= id !== 'token';
  complain(words);
  byId(id).focus();
}

function failed(problem) {
  if (problem.status === 401) {
    token.set('');
    refuse(problem.message, 'token');
  } else {
    // Somebody else changed or deleted it meanwhile: the typed text stays until the user loads the new one.
    complain(problem.message, problem.status === 412);
  }
}

// Each makes its change, and returns its description and a function that undoes it.
const CHANGES = {
  async add({at}, typed) {
    const {docid, ...rest} = typed;
    const {value, etag} = await send('POST', `passages?${new URLSearchParams(at)}`, {token: token.get(), body: docid ? typed : rest});
    return {what: `${value.docid} added`, undo: () => remove(at, value.docid, etag)};
  },

  async edit({at, passage, etag}, {docid, ...typed}) {
    const changed = await put(at, docid, typed, etag);
    const {docid: _, ...old} = passage;
    return {what: `${docid} edited`, undo: () => put(at, docid, old, changed.etag)};
  },

  async remove({at, passage, etag}) {
    await remove(at, passage.docid, etag);
    return {what: `${passage.docid} deleted`, undo: () => send('POST', `passages?${new URLSearchParams(at)}`, {token: token.get(), body: passage})};
  },
};

function put(at, docid, body, etag) {
  return send('PUT', passagePath(docid, at), {token: token.get(), etag, body});
}

function remove(at, docid, etag) {
  return send('DELETE', passagePath(docid, at), {token: token.get(), etag});
}
