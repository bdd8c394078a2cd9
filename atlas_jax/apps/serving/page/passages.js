// The passages behind an answer: attention to each passage and word, and each passage's contribution.

import {bar, el, percent} from './dom.js';

// Least attention for the strong, middle and weak mark, as a share of the largest attention to a word.
const LEVELS = [[0.6, 3], [0.3, 2], [0.12, 1]];
const ARTICLES = new Set(['a', 'an', 'the']);

/** Returns the passages to show: those of an answer, and those left out of it at their previous places. */
export function listed(before, passages, without) {
  const shown = passages.map((passage) => ({...passage, left: false}));
  before.forEach((passage, place) => {
    if (without.includes(passage.docid) && !shown.some((each) => each.docid === passage.docid)) {
      // This answer has no attention to a passage that it did not read.
      shown.splice(place, 0, {...passage, left: true, words: undefined});
    }
  });
  return shown;
}

/**
 * Returns the list of passages.
 *
 * `pane` has `name`, `shown` (from `listed`), `off` (docids that are switched off) and `turn`; `actions` has `toggle`, `edit` and `remove`.
 */
export function list(pane, actions) {
  const read = pane.shown.filter((passage) => !passage.left);
  const scale = {
    carried: Math.max(...read.map((passage) => Math.abs(passage.carried ?? 0)), 1e-9),
    word: Math.max(...read.flatMap((passage) => (passage.words ?? []).map((pair) => pair[1])), 1e-9),
  };
  return el('ol', {class: 'passages'}, ...pane.shown.map((passage, place) => item(passage, place + 1, pane, scale, actions)));
}

function item(passage, number, pane, scale, actions) {
  const off = pane.off.has(passage.docid);
  const id = `${pane.name}-passage-${number}`;
  return el('li', {class: `passage${off ? ' off' : ''}`, id},
    el('div', {class: 'row spread'},
      el('h3', {id: `${id}-title`}, el('span', {class: 'number'}, String(number)), ' ', passage.title || passage.docid,
        passage.section ? el('span', {class: 'soft'}, ` – ${passage.section}`) : null),
      el('label', {class: 'switch'}, el('input', {type: 'checkbox', role: 'switch', id: `${id}-read`, checked: !off,
        'aria-label': `Read passage ${number}`, onchange: () => actions.toggle(passage)}), 'read')),
    passage.left ? el('p', {class: 'soft small'}, 'Left out of this answer.') : measures(passage, scale),
    el('p', {class: 'text'}, ...marked(passage, pane.turn.text, scale.word)),
    el('div', {class: 'row spread'},
      el('p', {class: 'soft small docid'}, passage.docid, Number.isFinite(passage.score) ? ` · retrieval score ${passage.score.toFixed(3)}` : ''),
      el('div', {class: 'row'},
        el('button', {type: 'button', class: 'quiet', id: `${id}-edit`, 'aria-describedby': `${id}-title`,
          onclick: () => actions.edit(passage)}, 'Edit'),
        el('button', {type: 'button', class: 'quiet', id: `${id}-delete`, 'aria-describedby': `${id}-title`,
          onclick: () => actions.remove(passage)}, 'Delete'))));
}

function measures(passage, scale) {
  const rows = [];
  if (Number.isFinite(passage.attention)) {
    rows.push(el('dt', {}, 'Attention'), el('dd', {}, bar('attention', passage.attention), percent(passage.attention)));
  }
  if (Number.isFinite(passage.carried)) {
    // From the middle: to the right if the answer needs the passage, to the left if the passage spoke against it.
    const half = Math.abs(passage.carried) / scale.carried / 2;
    const offset = passage.carried < 0 ? 0.5 - half : 0.5;
    rows.push(el('dt', {}, 'Leave-one-out'),
      el('dd', {}, middle(bar(passage.carried < 0 ? 'against' : 'carried', half, offset)), signed(passage.carried)));
  }
  return rows.length ? el('dl', {class: 'measures'}, ...rows) : null;
}

function middle(element) {
  element.classList.add('middle');
  return element;
}

/** Returns a number with its sign and a typographic minus. */
export function signed(number) {
  const text = Math.abs(number).toFixed(2);
  return Number(text) === 0 ? '0.00' : `${number < 0 ? '−' : '+'}${text}`;
}

/** Returns the nodes of a passage's text: words marked by attention, and the answer's words underlined. */
function marked(passage, answer, strongest) {
  const parts = passage.text.trim().split(/(\s+)/);
  const words = parts.filter((_, place) => place % 2 === 0);
  const said = saidIn(words, answer);
  return parts.map((part, place) => {
    if (place % 2) return ' ';
    const number = place / 2;
    const [word, share] = passage.words?.[number] ?? ['', 0];
    // The server sends the text's words in order, up to the reader's limit.
    const level = word === part ? LEVELS.find(([from]) => share >= from * strongest)?.[1] : undefined;
    const text = said.has(number) ? el('strong', {class: 'said'}, part) : part;
    return level ? el('mark', {class: `looked-${level}`, title: `attention ${(100 * share).toFixed(1)} %`}, text) : text;
  });
}

/** Returns the numbers of the words that are the answer, ignoring case and punctuation. */
function saidIn(words, answer) {
  const bare = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '');
  const wanted = (answer ?? '').split(/\s+/).map(bare).filter((word) => word && !ARTICLES.has(word));
  const found = new Set();
  const all = words.map(bare);
  for (let start = 0; wanted.length && start + wanted.length <= all.length; start += 1) {
    if (wanted.every((word, place) => all[start + place] === word)) wanted.forEach((_, place) => found.add(start + place));
  }
  return found;
}

/** Returns the explanation of the measures. */
export function legend() {
  return el('details', {class: 'legend'}, el('summary', {}, 'How to read this'),
    el('p', {}, el('b', {}, 'Attention'), ' is the share of the decoder’s cross attention: where the reader looked. It does not show what caused ',
      'the answer. Words with the most attention are ', el('mark', {class: 'looked-2'}, 'marked'), '; the answer’s own words are ',
      el('strong', {class: 'said'}, 'underlined'), '.'),
    el('p', {}, el('b', {}, 'Leave-one-out'), ' is how much the log likelihood of this answer falls when the passage alone is left out. To the ',
      'right, the answer needs the passage; to the left, the passage spoke against it. If two passages say the same, each has about 0.'),
    el('p', {}, el('b', {}, 'Read'), ' switched off leaves a passage out of the next answer; the index stays as it is. ',
      el('b', {}, 'Edit'), ' and ', el('b', {}, 'Delete'), ' change the index for everyone who uses this server.'));
}
