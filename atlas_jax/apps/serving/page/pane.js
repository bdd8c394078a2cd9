// One of the two panes: asks, shows the answer while it arrives, and asks again after a change.

import {announce, byId, el, percent, replace} from './dom.js';
import {Problem, stream} from './api.js';
import * as answers from './answer.js';
import * as passages from './passages.js';
import {map} from './map.js';

/**
 * A pane with one answer.
 *
 * `turn` is the answer, `before` the answer that it is compared with, `shown` its passages and those left out, `off` the docids that the
 * next answer leaves out, `change` the change of the index before it.
 */
export class Pane {
  constructor(name, actions) {
    Object.assign(this, {name, actions, root: byId(`pane-${name}`), legend: passages.legend(), mapOpen: false});
    this.reset();
  }

  reset() {
    this.control?.abort();
    Object.assign(this, {turn: null, before: null, shown: [], off: new Set(), change: null, running: false, error: null, control: null, map: null});
  }

  /** Asks a question: {question, model, index, n_context, closed_book, explain}. */
  ask(request) {
    this.reset();
    this.request = request;
    return this.run(null, '');
  }

  /** Asks again, without the passages that are switched off. `change` is a change of the index, described by `what`. */
  again(change = null) {
    const changed = [change?.what, this.off.size ? `without ${[...this.off].join(', ')}` : ''].filter(Boolean).join(', ');
    this.change = change;
    // After a failure there is no answer to compare with.
    return this.run(this.turn?.done ? this.turn : null, changed);
  }

  async run(before, changed) {
    this.control?.abort();
    const control = this.control = new AbortController();
    const {question, model, index, n_context: count} = this.request;
    const turn = {question, model, index, n_context: count, without: [...this.off], changed, text: '', passages: [],
      closed_book: before?.closed_book, time: new Date().toISOString()};
    Object.assign(this, {before, turn, running: true, error: null});
    this.actions.changed();
    this.draw();
    try {
      for await (const [event, value] of stream(this.body(turn), control.signal)) this.take(event, value);
      this.finish();
    } catch (error) {
      if (this.control === control) this.fail(error);
    }
  }

  body(turn) {
    const {question, model, index, n_context: count, explain, closed_book: closed} = this.request;
    // The answer without passages stays the same when passages change, so it is requested once.
    return {question, model, index, explain, closed_book: closed && turn.closed_book === undefined, without: turn.without,
      ...(count ? {n_context: count} : {})};
  }

  take(event, value) {
    if (event === 'token') {
      // Only the text: drawing everything for each token would make the page flicker.
      this.turn.text = value.text;
      byId(`${this.name}-answer`).textContent = value.text;
    } else if (event === 'passages') {
      this.receive(value);
      this.draw();
    } else if (event === 'answer') {
      const {passages: read, ...rest} = value.answers[0];
      Object.assign(this.turn, rest, {seconds: value.seconds, done: true});
      this.receive(read);
    }
  }

  receive(read) {
    this.shown = passages.listed(this.shown, read, this.turn.without);
    this.turn.passages = read;
  }

  finish() {
    this.running = false;
    this.map = map(this);
    this.draw();
    const {done, ...kept} = this.turn;
    this.actions.answered(kept);
    const sure = Number.isFinite(kept.confidence) ? `confidence ${percent(kept.confidence)}` : 'not calibrated';
    announce(`Answer: ${kept.text || 'none'}; ${sure}; ${kept.passages.length} passages.`);
    this.actions.changed();
  }

  fail(error) {
    this.running = false;
    const stopped = error.name === 'AbortError';
    if (!stopped && !(error instanceof Problem)) console.error(error);
    this.error = stopped ? new Problem(0, 'Stopped.') : error instanceof Problem ? error : new Problem(0, `This page has a fault: ${error.message}.`);
    // Shows the earlier answer again instead of half a new one.
    if (this.before) Object.assign(this, {turn: this.before, before: null});
    this.draw();
    this.actions.changed();
  }

  /** Stops the running answer. */
  stop() {
    if (this.running) this.control.abort();
  }

  /** Shows an answer from the history; its question can be asked again. */
  open(turn, request) {
    this.reset();
    Object.assign(this, {request, turn: {...turn, done: true}, shown: passages.listed([], turn.passages, []), off: new Set(turn.without ?? [])});
    this.map = map(this);
    this.draw();
  }

  /** Switches a passage on or off for the next answer. */
  toggle(docid) {
    if (!this.off.delete(docid)) this.off.add(docid);
    this.draw();
  }

  draw() {
    this.root.setAttribute('aria-busy', String(this.running));
    if (!this.turn) return replace(this.root);
    const failed = this.error && answers.problem(this.error, () => this.again(this.change));
    const alert = el('div', {role: 'alert'}, failed);
    const isShown = this.turn.done || this.running;
    replace(this.root, alert, isShown ? answers.card(this) : el('h2', {}, this.turn.question), this.undoing(), this.shown.length && [
      el('h3', {class: 'label'}, 'Passages'), this.legend, passages.list(this, this.actions.of(this)), this.pending()],
    isShown && !this.running && !this.shown.length && el('p', {class: 'notice'}, 'No passage was read.'), !this.running && this.map);
  }

  undoing() {
    const {change} = this;
    if (!change?.undo || this.running) return null;
    return el('p', {class: 'notice row spread'}, `${change.what} in index ${this.turn.index}.`,
      el('button', {type: 'button', id: `${this.name}-undo`, onclick: () => this.actions.undo(this, change)}, 'Undo this change'));
  }

  /** Returns a notice about the switches if they differ from the answer. */
  pending() {
    const now = this.turn.without ?? [];
    const differs = now.length !== this.off.size || now.some((docid) => !this.off.has(docid));
    if (!differs || this.running) return null;
    const count = this.off.size;
    const words = count ? `${count} ${count === 1 ? 'passage is' : 'passages are'} switched off.` : 'All passages are switched on.';
    return el('div', {class: 'notice pending row spread', role: 'status'}, words, el('div', {class: 'row'},
      el('button', {type: 'button', class: 'primary', id: `${this.name}-again`, onclick: () => this.again()}, 'Ask again'),
      el('button', {type: 'button', id: `${this.name}-reset`, onclick: () => {
        this.off = new Set(now);
        this.draw();
      }}, 'Back')));
  }
}
