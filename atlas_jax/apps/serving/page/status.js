// Shows above everything else whether the server can be reached and is ready.

import {byId, el, replace} from './dom.js';
import {onReached, send} from './api.js';

const AGAIN_SECONDS = 3;
const WATCH_SECONDS = 15;
let state = 'ready';
let timer = null;

/** Starts to watch the server; `back` is called when it can be reached again. */
export function watch(back) {
  onReached((reached) => {
    if (reached === (state !== 'offline')) return;
    say(reached ? 'ready' : 'offline');
    if (reached) back();
  });
  check();
}

async function check() {
  clearTimeout(timer);
  try {
    await send('GET', 'ready');
    say('ready');
  } catch (problem) {
    if (problem.status === 503) say('warming');
  }
  // A hidden tab sends no requests.
  timer = setTimeout(() => (document.hidden ? wait() : check()), 1000 * (state === 'ready' ? WATCH_SECONDS : AGAIN_SECONDS));
}

function wait() {
  document.addEventListener('visibilitychange', check, {once: true});
}

function say(next) {
  if (next === state) return;
  state = next;
  if (state === 'offline') check();
  const words = {
    offline: 'The server cannot be reached. What you typed is kept, and so is what is shown. The page tries again every few seconds.',
    warming: 'The server is getting ready: it compiles its programs. A question that is asked now waits for that.',
  }[state];
  replace(byId('connection'), words && el('p', {class: `notice ${state === 'offline' ? 'wrong' : ''}`}, words));
}
